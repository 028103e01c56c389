import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'

/** A statement run and how far it is. */
export interface Run {
  id: string
  /** Its slug. */
  tenant: string
  period: string
  state: 'waiting' | 'running' | 'finished'
  accounts: number
  rendered: number
  /** As basic PDFs. */
  basic: number
  failed: number
  pending: number
  /** Times that a renderer died. */
  deaths: number
  batches: number
  startedAt: Date
  finishedAt: Date | null
}

const RUNS = `select r.id, t.slug as tenant, r.period,
    case when r.finished_at is not null then 'finished' when r.laid_out_at is null then 'waiting' else 'running' end as state,
    s.*, (select count(*)::int from billing.statement_renderer_death d where (d.tenant_id, d.run_id) = (r.tenant_id, r.id)) as deaths,
    (select count(*)::int from billing.statement_batch b where (b.tenant_id, b.run_id) = (r.tenant_id, r.id)) as batches,
    r.started_at as "startedAt", r.finished_at as "finishedAt"
  from billing.statement_run r join tabib.tenant t on t.id = r.tenant_id, lateral (
    select count(*)::int as accounts, count(*) filter (where state = 'rendered')::int as rendered,
      count(*) filter (where state = 'basic')::int as basic, count(*) filter (where state = 'failed')::int as failed,
      count(*) filter (where state = 'pending')::int as pending
    from billing.statement s where (s.tenant_id, s.run_id) = (r.tenant_id, r.id)) s`

/** Runs, the last begun first; of one tenant where it is named, unfinished ones alone where asked for. */
export function listRuns(
  { db }: { db: Queryable },
  { tenantId, open = false, limit }: { tenantId?: string | undefined; open?: boolean; limit: number },
): Promise<Run[]> {
  return db.query<Run>(
    `${RUNS} where ($1::uuid is null or r.tenant_id = $1) and (not $2 or r.finished_at is null)
     order by r.started_at desc limit $3`,
    [tenantId, open, limit],
  )
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** One run by its id. @throws TabibError NOT_FOUND */
export async function findRun({ db }: { db: Queryable }, id: string): Promise<Run> {
  const [run] = UUID.test(id) ? await db.query<Run>(`${RUNS} where r.id = $1`, [id]) : []
  if (run) return run
  throw new TabibError('NOT_FOUND', `there is no statement run "${id}"`, {
    suggestions: ['tabib statement show'],
    context: { id },
  })
}

/** An account whose statement is not as it should be, and why. */
export interface Shortfall {
  accountId: string
  number: number
  state: 'basic' | 'failed' | 'pending'
  attempts: number
  reason: string
  detail: string | null
}

/** Accounts of a run that failed, were rendered basic, or are tried again; by their numbers. */
export function shortfallsOf({ db }: { db: Queryable }, runId: string, limit: number): Promise<Shortfall[]> {
  return db.query<Shortfall>(
    `select account_id as "accountId", n as number, state, attempts, reason, detail
     from billing.statement where run_id = $1 and reason is not null and state in ('failed', 'basic', 'pending')
       and tenant_id = (select tenant_id from billing.statement_run where id = $1)
     order by array_position(array['failed', 'pending', 'basic'], state), n limit $2`,
    [runId, limit],
  )
}

/**
 * Lets a finished run's accounts be rendered again: those that failed, or all of them. What is stored stays until other bytes
 * take its place; the same bytes are neither written nor announced again.
 */
export async function reopenRun(
  { db }: { db: Queryable },
  runId: string,
  which: 'failed' | 'all',
): Promise<number> {
  const [reopened] = await db.query<{ accounts: number }>(
    `with again as (
       update billing.statement set state = 'pending', attempts = 0, failures = 0, settled_at = null
       where run_id = $1 and state in ('failed', 'rendered', 'basic') and ($2 = 'all' or state = 'failed')
       returning tenant_id, batch
     ), batch as (
       update billing.statement_batch b
       set state = 'queued', holder = null, expires_at = null, queued_at = clock_timestamp()
       where b.run_id = $1 and b.state = 'done' and b.n in (select batch from again)
     ), run as (
       update billing.statement_run set finished_at = null where id = $1 and exists (select from again)
     )
     select count(*)::int as accounts from again`,
    [runId, which],
  )
  return reopened!.accounts
}

/** What Prometheus reads. */
export interface StatementCounts {
  rendered: number
  basic: number
  failed: number
  pending: number
  openRuns: number
  deaths: number
}

/** Statements by what became of them, of all runs there are, and renderers that died. */
export async function statementCounts({ db }: { db: Queryable }): Promise<StatementCounts> {
  const [counts] = await db.query<StatementCounts>(
    `select count(*) filter (where state = 'rendered')::float8 as rendered,
       count(*) filter (where state = 'basic')::float8 as basic, count(*) filter (where state = 'failed')::float8 as failed,
       count(*) filter (where state = 'pending')::float8 as pending,
       (select count(*)::float8 from billing.statement_run where finished_at is null) as "openRuns",
       (select count(*)::float8 from billing.statement_renderer_death) as deaths
     from billing.statement`,
  )
  return counts!
}

/** A run that makes so little progress for so long will not end by itself. */
const STALLED_AFTER = '15 minutes'

/** Runs that have not finished in the time that a run may take, or in which nothing has been settled for a quarter of an hour. */
export function lateRuns({
  db,
  config,
}: {
  db: Queryable
  config: Pick<Config, 'statements'>
}): Promise<{ id: string; tenant: string; period: string; ageS: number; pending: number }[]> {
  return db.query(
    `select r.id, t.slug as tenant, r.period, extract(epoch from clock_timestamp() - r.started_at)::float8 as "ageS",
       (select count(*)::int from billing.statement s
        where (s.tenant_id, s.run_id) = (r.tenant_id, r.id) and s.state = 'pending') as pending
     from billing.statement_run r join tabib.tenant t on t.id = r.tenant_id
     where r.finished_at is null and (
       clock_timestamp() - r.started_at > make_interval(secs => $1)
       or clock_timestamp() - interval '${STALLED_AFTER}' > greatest(r.started_at, (
         select max(settled_at) from billing.statement s where (s.tenant_id, s.run_id) = (r.tenant_id, r.id))))
     order by r.started_at`,
    [config.statements.runTimeoutMs / 1_000],
  )
}

/** Accounts that have no statement because their renderer ran out of memory. */
export function outOfMemory({
  db,
}: {
  db: Queryable
}): Promise<{ runId: string; accountId: string; rssMib: number }[]> {
  return db.query(
    `select s.run_id as "runId", s.account_id as "accountId", (
       select max(rss_mib) from billing.statement_renderer_death d
       where (d.tenant_id, d.run_id, d.account_id) = (s.tenant_id, s.run_id, s.account_id)) as "rssMib"
     from billing.statement s where s.reason = 'MEMORY' and s.state in ('pending', 'failed') order by s.account_id`,
  )
}
