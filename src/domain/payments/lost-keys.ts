import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { SERVICES, schemaOf } from '../../service.ts'
import type { Answer } from '../idempotency/key.ts'
import { CHARGE_COLUMNS, CHARGE_PATH, type Charge, chargeAnswer } from './charge.ts'
import { PAYMENT_COLUMNS, PAYMENT_PATH, type Payment, paymentAnswer } from './pay.ts'

// A minute short of a key's life, so that one that is being forgotten now is not missed.
const KEPT_FOR = `interval '23 hours 59 minutes'`
const BATCH = 500

const lost = (table: string, at: string, columns: string) => `
  select tenant_id, idempotency_key, fingerprint, ${at} as at, ${columns} from billing.${table} made
  where ${at} > now() - ${KEPT_FOR} and idempotency_key is not null and not exists (
    select from billing.idempotency_key kept
    where kept.tenant_id = made.tenant_id and kept.route = $1 and kept.key = made.idempotency_key)`

const LOST_PAYMENTS = lost('payment', 'paid_at', PAYMENT_COLUMNS)
const LOST_CHARGES = lost('charge', 'captured_at', CHARGE_COLUMNS)

export interface LostKeys {
  /** Payments and charges of the last 24 hours whose key is gone: somebody makes keys live shorter. */
  lost: number
  /** Seconds since the youngest of them was made: keys live no longer than that. */
  youngestS: number | null
}

/** Keys that went before their time. */
export async function lostKeys({ db }: { db: Queryable }): Promise<LostKeys> {
  const [row] = await db.query<LostKeys>(
    `select count(*)::int as lost, extract(epoch from now() - max(at))::float8 as "youngestS" from (
       select at from (${LOST_PAYMENTS}) payment union all
       select at from (${LOST_CHARGES.replace('$1', '$2')}) charge) gone`,
    [`POST ${PAYMENT_PATH}`, `POST ${CHARGE_PATH}`],
  )
  return row!
}

/** Tables of keys whose policy, which keeps their rows for 24 hours, is gone, changed or not in force. */
export async function unguardedKeys({ db }: { db: Queryable }): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relname = 'idempotency_key' and n.nspname = any($1) and not (
       c.relrowsecurity and c.relforcerowsecurity and exists (
         select from pg_policy p where p.polrelid = c.oid and not p.polpermissive and p.polcmd = 'd' and 0 = any(p.polroles)
           and pg_get_expr(p.polqual, c.oid) = '(created_at <= (now() - ''24:00:00''::interval))'))
     order by 1`,
    [SERVICES.map(schemaOf)],
  )
  return rows.map(({ name }) => name)
}

/**
 * Puts lost keys back with their own time and, made of the payment or charge again, the answer that was given. What is
 * there stays; twice is once.
 */
export async function restoreKeys({ db }: { db: Database }): Promise<{ restored: number }> {
  const payments = await restore<Payment>(db, LOST_PAYMENTS, `POST ${PAYMENT_PATH}`, paymentAnswer)
  const charges = await restore<Charge>(db, LOST_CHARGES, `POST ${CHARGE_PATH}`, chargeAnswer)
  return { restored: payments + charges }
}

type Lost = { tenant_id: string; idempotency_key: string; fingerprint: Buffer; at_text: string }

async function restore<T>(
  db: Database,
  sql: string,
  route: string,
  answer: (made: T) => Answer,
): Promise<number> {
  let restored = 0
  for (;;) {
    const rows = await db.query<T & Lost>(`select *, at::text as at_text from (${sql}) gone limit ${BATCH}`, [
      route,
    ])
    const answers = rows.map(answer)
    await db.query(
      `insert into billing.idempotency_key (tenant_id, route, key, fingerprint, status, body, created_at)
       select tenant_id, $1, key, fingerprint, status, body, created_at
       from unnest($2::uuid[], $3::text[], $4::bytea[], $5::int[], $6::text[], $7::timestamptz[])
         as t(tenant_id, key, fingerprint, status, body, created_at)
       on conflict do nothing`,
      [
        route,
        rows.map(({ tenant_id }) => tenant_id),
        rows.map(({ idempotency_key }) => idempotency_key),
        rows.map(({ fingerprint }) => fingerprint),
        answers.map(({ status }) => status),
        answers.map(({ body }) => body),
        rows.map(({ at_text }) => at_text),
      ],
    )
    restored += rows.length
    if (rows.length < BATCH) return restored
  }
}
