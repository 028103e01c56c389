import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { periodOf } from './period.ts'

/**
 * Begins the statement run of a tenant and a period, or gives back the one there is: there is never a second. Puts nothing
 * else on record; `layOutRun` does.
 *
 * @throws TabibError USAGE, CONFIG_INVALID; PERIOD_OPEN before the period has ended.
 */
export async function startRun(
  { db }: { db: Database },
  { tenantId, period: name, batchSize }: { tenantId: string; period: string; batchSize: number },
): Promise<{ id: string; isNew: boolean }> {
  const period = await periodOf(db, tenantId, name)
  if (!period.hasEnded) {
    throw new TabibError(
      'PERIOD_OPEN',
      `${name} ends at ${period.endsAt.toISOString()} (${period.timeZone}): what is stated before that would not stay`,
      { suggestions: ['the same command after that'], context: { endsAt: period.endsAt.toISOString() } },
    )
  }
  const [made] = await db.query<{ id: string }>(
    `insert into billing.statement_run (tenant_id, period, time_zone, starts_at, ends_at, batch_size)
     values ($1, $2, $3, $4, $5, $6) on conflict (tenant_id, period) do nothing returning id`,
    [tenantId, name, period.timeZone, period.startsAt, period.endsAt, batchSize],
  )
  if (made) return { id: made.id, isNew: true }
  const [first] = await db.query<{ id: string }>(
    'select id from billing.statement_run where tenant_id = $1 and period = $2',
    [tenantId, name],
  )
  return { id: first!.id, isNew: false }
}

// A transaction that is open for longer was not posting at the period's end.
const LATE_POSTING = '1 hour'

/**
 * Puts every patient's account and the batches they are cut into on record, once: of accounts that have no entry before the
 * period's end, those that have none at all. Waits, by answering false, while a transaction is open that may still commit
 * what it posted before the period ended.
 */
export function layOutRun({ db }: { db: Database }, runId: string): Promise<boolean> {
  return db.transaction(async (tx) => {
    const [run] = await tx.query<{ tenantId: string; isLaidOut: boolean; isSettled: boolean }>(
      `select tenant_id as "tenantId", laid_out_at is not null as "isLaidOut",
         xid < pg_snapshot_xmin(pg_current_snapshot()) or clock_timestamp() > ends_at + interval '${LATE_POSTING}' as "isSettled"
       from billing.statement_run where id = $1 for no key update`,
      [runId],
    )
    if (!run!.isLaidOut && run!.isSettled) await layOut(tx, runId, run!.tenantId)
    return run!.isLaidOut || run!.isSettled
  })
}

async function layOut(tx: Transaction, runId: string, tenantId: string): Promise<void> {
  await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
  await tx.query(
    `with run as (
       select * from billing.statement_run where tenant_id = $2 and id = $1
     ), account as (
       select a.id, row_number() over (order by a.id) as n
       from billing.account a, run
       where a.tenant_id = $2 and a.code like 'receivable:%' and coalesce(
         (select e.posted_at from billing.entry e where e.tenant_id = a.tenant_id and e.account_id = a.id
          order by e.seq limit 1) < run.ends_at, true)
     ), batch as (
       insert into billing.statement_batch (tenant_id, run_id, n)
       select distinct $2::uuid, $1::uuid, 1 + (account.n - 1) / run.batch_size from account, run
     )
     insert into billing.statement (tenant_id, run_id, account_id, n, batch)
     select $2, $1, account.id, account.n, 1 + (account.n - 1) / run.batch_size from account, run`,
    [runId, tenantId],
  )
  await tx.query('update billing.statement_run set laid_out_at = clock_timestamp() where id = $1', [runId])
}
