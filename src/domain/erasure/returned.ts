import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { fingerprints } from './identifiers.ts'
import { INVENTORY } from './inventory/index.ts'
import { asErasure } from './perform.ts'
import { openRequest } from './request.ts'
import type { ErasureSecret } from './secret.ts'

/** Somebody who was erased and is there again: by a late event, by a restore, by hand. */
export interface Returned {
  tenantId: string
  hash: Buffer
  /** Undefined where only a number or an address came back. */
  subjectId: string | undefined
  /** Of `subjectId`, where it stands; the place that was found first. */
  place: string
  phones: string[]
  emails: string[]
}

const BATCH = 5_000
const NIL = '00000000-0000-0000-0000-000000000000'

/**
 * Looks for subjects who were erased, by keyed hash alone: every patient's id in every store is hashed and compared, and
 * so is where attempts without a patient went. Reads only.
 */
export async function findReturned(
  { db, secret }: { db: Database; secret: ErasureSecret },
  { tenantId, signal }: { tenantId?: string | undefined; signal?: AbortSignal } = {},
): Promise<Returned[]> {
  const tenants = await db.query<{ tenantId: string; hashes: Buffer[] }>(
    `select tenant_id as "tenantId", array_agg(subject_hash) as hashes from tabib.erasure_subject
     where $1::uuid is null or tenant_id = $1 group by tenant_id order by tenant_id`,
    [tenantId],
  )
  const returned: Returned[] = []
  for (const tenant of tenants) {
    const erased = new Set(tenant.hashes.map((hash) => hash.toString('hex')))
    const found = new Map<string, Returned>()
    const places = await asErasure(db, tenant.tenantId, subjectColumns)
    for (const { table, column, how } of places) {
      // Ids in events stay until the events' retention is over.
      if (how === 'shred') continue
      for await (const id of idsIn(db, tenant.tenantId, table, column)) {
        if (signal?.aborted) return returned
        const hash = secret.subjectHash(tenant.tenantId, id)
        const key = hash.toString('hex')
        if (!erased.has(key) || found.has(key)) continue
        const place = `${table}.${column}`
        found.set(key, { tenantId: tenant.tenantId, hash, subjectId: id, place, phones: [], emails: [] })
      }
    }
    returned.push(...found.values(), ...(await returnedRecipients({ db, secret }, tenant.tenantId, found)))
  }
  return returned
}

/**
 * Opens what came back once more: a request that is watched is done again, of one that is complete another follows. What a
 * legal hold keeps is no return, and neither is what an open request has still to do.
 * @returns how many.
 */
export async function reopenReturned(
  { db, secret }: { db: Database; secret: ErasureSecret },
  returned: readonly Returned[],
): Promise<number> {
  let reopened = 0
  for (const one of returned) {
    const last = await lastRequest(db, one)
    if (last === undefined || last.state === 'open') continue
    if (last.state === 'watching') {
      // Read again at once; what is found is one more round.
      await db.transaction(async (tx) => {
        await tx.query(
          `update tabib.erasure_request set state = 'open', watch_until = null where id = $1 and state = 'watching'`,
          [last.id],
        )
        await tx.query(
          `update tabib.erasure_step set reread_at = null, second_reread_at = null where request_id = $1 and state = 'done'`,
          [last.id],
        )
      })
    } else {
      const { tenantId, subjectId = NIL, hash, phones, emails } = one
      await openRequest(
        { db, secret },
        {
          tenantId,
          subjectId,
          authority: last.authority,
          order: { jti: null, digest: last.digest },
          follows: last.id,
          ...(one.subjectId === undefined && { knownAs: { hash, phones, emails } }),
        },
      )
    }
    reopened += 1
  }
  return reopened
}

/** Where patients' ids stand: the subject keys of the tables that participants erase in, by the inventory. */
export function subjectColumns(tx: Transaction): Promise<{ table: string; column: string; how: string }[]> {
  const columns = Object.values(INVENTORY).flatMap(({ tables }) =>
    Object.entries(tables).flatMap(([table, { subjectKey = [], erasure }]) =>
      erasure === undefined ? [] : subjectKey.map((column) => ({ table, column, how: erasure.how })),
    ),
  )
  return tx.query(
    `select "table", "column", how from unnest($1::text[], $2::text[], $3::text[]) as c ("table", "column", how)
     join pg_attribute a on a.attrelid = to_regclass("table") and a.attname = "column" and a.atttypid = 'uuid'::regtype
     where has_column_privilege(a.attrelid, a.attnum, 'select')`,
    [columns.map(({ table }) => table), columns.map(({ column }) => column), columns.map(({ how }) => how)],
  )
}

async function lastRequest(db: Queryable, { tenantId, hash }: Returned) {
  const [last] = await db.query<{
    id: string
    state: 'open' | 'watching' | 'complete'
    authority: string
    digest: string
  }>(
    `select id, state, authority, encode(order_digest, 'hex') as digest from tabib.erasure_request
     where tenant_id = $1 and subject_hash = $2 order by (state = 'complete'), requested_at desc limit 1`,
    [tenantId, hash],
  )
  return last
}

async function* idsIn(db: Database, tenantId: string, table: string, column: string): AsyncGenerator<string> {
  for (let after = NIL; ; ) {
    const ids = await asErasure(db, tenantId, (tx: Transaction) =>
      tx.query<{ id: string }>(
        `select distinct ${column} as id from ${table}
         where tenant_id = $1 and ${column} > $2 order by 1 limit ${BATCH}`,
        [tenantId, after],
      ),
    )
    for (const { id } of ids) yield id
    if (ids.length < BATCH) return
    after = ids.at(-1)!.id
  }
}

/** Attempts without a patient that went to an erased subject, unless the number is a patient's who is there. */
async function returnedRecipients(
  { db, secret }: { db: Database; secret: ErasureSecret },
  tenantId: string,
  found: ReadonlyMap<string, Returned>,
): Promise<Returned[]> {
  const recipients = await asErasure(db, tenantId, (tx) =>
    tx.query<{ recipient: string }>(
      `select distinct recipient from communication.dispatch_log log
       where tenant_id = $1 and patient_id is null and recipient is not null and not exists (
         select from virtual_care.patient p where communication.recipient_key(p.phone) = communication.recipient_key(recipient)
           or communication.recipient_key(p.email) = communication.recipient_key(recipient))
         and not exists (select from communication.message m where m.id = log.message_id)`,
      [tenantId],
    ),
  )
  const prints = new Map<string, string>()
  for (const { recipient } of recipients) {
    const asked = recipient.includes('@')
      ? { phones: [], emails: [recipient] }
      : { phones: [recipient], emails: [] }
    for (const { fingerprint } of fingerprints(secret, tenantId, asked)) {
      prints.set(fingerprint.toString('hex'), recipient)
    }
  }
  if (prints.size === 0) return []
  const known = await db.query<{ hash: Buffer; fingerprint: Buffer }>(
    `select subject_hash as hash, fingerprint from tabib.erasure_fingerprint
     where tenant_id = $1 and fingerprint = any($2)`,
    [tenantId, [...prints.keys()].map((hex) => Buffer.from(hex, 'hex'))],
  )
  const returned = new Map<string, Returned>()
  for (const { hash, fingerprint } of known) {
    const key = hash.toString('hex')
    if (found.has(key)) continue
    const place = 'communication.dispatch_log.recipient'
    const one = returned.get(key) ?? { tenantId, hash, subjectId: undefined, place, phones: [], emails: [] }
    const recipient = prints.get(fingerprint.toString('hex'))!
    one[recipient.includes('@') ? 'emails' : 'phones'].push(recipient)
    returned.set(key, one)
  }
  return [...returned.values()]
}
