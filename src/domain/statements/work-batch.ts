import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import type { HeldBatch } from './render-batch.ts'
import type { BatchEnd, Renderer } from './renderer.ts'

const LEASE = '15 seconds'
const RENEW_MS = 5_000
// What Redis has lost is taken without it.
const LOST_AFTER = '10 seconds'

/** Which batches somebody may take. */
export interface Claim {
  holder: string
  runId?: string | undefined
  /** That one alone. */
  n?: number
  /** Only those that nobody hands out: whoever held them died, or they have waited too long. */
  stale?: boolean
}

/** Takes one batch that nobody works on, or whose holder has not been heard of; undefined when there is none. */
export async function claimBatch(
  { db }: { db: Queryable },
  { holder, runId, n, stale = false }: Claim,
): Promise<HeldBatch | undefined> {
  const [claimed] = await db.query<HeldBatch>(
    `with next as (
       select b.tenant_id, b.run_id, b.n, r.period
       from billing.statement_batch b
         join billing.statement_run r on (r.tenant_id, r.id) = (b.tenant_id, b.run_id)
       where b.state <> 'done' and ($2::uuid is null or b.run_id = $2) and ($3::int is null or b.n = $3)
         and (b.expires_at < clock_timestamp()
           or (b.state = 'queued' and (not $4 or b.queued_at < clock_timestamp() - interval '${LOST_AFTER}')))
       order by r.started_at, b.n limit 1 for no key update of b skip locked
     )
     update billing.statement_batch b
     set state = 'running', holder = $1, expires_at = clock_timestamp() + interval '${LEASE}'
     from next where (b.tenant_id, b.run_id, b.n) = (next.tenant_id, next.run_id, next.n)
     returning b.tenant_id as "tenantId", b.run_id as "runId", b.n, next.period, b.holder`,
    [holder, runId, n, stale],
  )
  return claimed
}

/**
 * Renders one batch that was claimed, and gives it back. The account on which the renderer died is split off into a batch of
 * its own, which is returned, so that the others do not wait for it.
 * @throws TabibError for what is no account's fault: the store or Postgres cannot be used, no renderer starts.
 */
export async function workBatch(
  { db }: { db: Database },
  { batch, renderer, signal }: { batch: HeldBatch; renderer: Renderer; signal: AbortSignal },
): Promise<{ splitOff: number[] }> {
  const lost = new AbortController()
  const keeper = setInterval(() => {
    renew(db, batch).then(
      (held) => held || lost.abort(),
      // Whoever cannot be asked has not taken it away.
      () => {},
    )
  }, RENEW_MS)
  try {
    const end = await renderer.render(batch, AbortSignal.any([signal, lost.signal]))
    if (end.kind === 'done') {
      await finishBatch(db, batch)
      return { splitOff: [] }
    }
    if (end.kind === 'stopped') {
      await release(db, batch)
      throw end.error
    }
    if (end.cause === 'signal') {
      await release(db, batch)
      return { splitOff: [] }
    }
    return { splitOff: await splitOff(db, batch, end) }
  } finally {
    clearInterval(keeper)
  }
}

async function renew(db: Queryable, { tenantId, runId, n, holder }: HeldBatch): Promise<boolean> {
  const renewed = await db.query(
    `update billing.statement_batch set expires_at = clock_timestamp() + interval '${LEASE}'
     where tenant_id = $1 and run_id = $2 and n = $3 and holder = $4 returning n`,
    [tenantId, runId, n, holder],
  )
  return renewed.length > 0
}

async function finishBatch(db: Queryable, { tenantId, runId, n, holder }: HeldBatch): Promise<void> {
  await db.query(
    `update billing.statement_batch b
     set state = case when left_over then 'queued' else 'done' end, holder = null, expires_at = null
     from (select exists (select from billing.statement
             where tenant_id = $1 and run_id = $2 and batch = $3 and state = 'pending') as left_over) s
     where b.tenant_id = $1 and b.run_id = $2 and b.n = $3 and b.holder = $4`,
    [tenantId, runId, n, holder],
  )
  await finishRun({ db }, runId)
}

/** Puts a run on record as finished once every account has its outcome. */
export async function finishRun({ db }: { db: Queryable }, runId: string): Promise<void> {
  await db.query(
    `update billing.statement_run r set finished_at = clock_timestamp()
     where r.id = $1 and r.laid_out_at is not null and r.finished_at is null and not exists (
       select from billing.statement s where s.tenant_id = r.tenant_id and s.run_id = r.id and s.state = 'pending')`,
    [runId],
  )
}

/** Gives a batch back. What was under way was left for no fault of its own. */
async function release(db: Database, { tenantId, runId, n, holder }: HeldBatch): Promise<void> {
  await db.transaction(async (tx) => {
    const held = await tx.query(
      `update billing.statement_batch
       set state = 'queued', holder = null, expires_at = null, queued_at = clock_timestamp()
       where tenant_id = $1 and run_id = $2 and n = $3 and holder = $4 returning n`,
      [tenantId, runId, n, holder],
    )
    if (held.length === 0) return
    await tx.query(
      `update billing.statement set attempts = attempts - 1, began_at = null
       where tenant_id = $1 and run_id = $2 and batch = $3 and state = 'pending' and began_at is not null`,
      [tenantId, runId, n],
    )
  })
}

const REASONS = { memory: 'MEMORY', timeout: 'TIMEOUT', crash: 'CRASH' }

/** Puts a renderer's death on record; the account it died on gets a batch of its own unless it had one. Answers what waits now. */
function splitOff(
  db: Database,
  { tenantId, runId, n, holder }: HeldBatch,
  end: BatchEnd & { kind: 'died' },
): Promise<number[]> {
  const { accountId, rssMib, cause } = end as typeof end & { cause: keyof typeof REASONS }
  const detail = {
    memory: `its renderer was ended at ${rssMib} MiB`,
    timeout: 'its renderer did not finish in time',
    crash: 'its renderer ended by an error',
  }[cause]
  return db.transaction(async (tx) => {
    // One at a time, for the next batch's number.
    await tx.query('select from billing.statement_run where id = $1 for no key update', [runId])
    const held = await tx.query(
      `update billing.statement_batch
       set state = 'queued', holder = null, expires_at = null, queued_at = clock_timestamp()
       where tenant_id = $1 and run_id = $2 and n = $3 and holder = $4 returning n`,
      [tenantId, runId, n, holder],
    )
    if (held.length === 0) return []
    if (accountId === undefined) return [n]
    const failed = await tx.query(
      `update billing.statement set failures = failures + 1, began_at = null, reason = $4, detail = $5
       where tenant_id = $1 and run_id = $2 and account_id = $3 and state = 'pending' returning account_id`,
      [tenantId, runId, accountId, REASONS[cause], detail],
    )
    if (failed.length === 0) return [n]
    await tx.query(
      `insert into billing.statement_renderer_death (tenant_id, run_id, account_id, cause, rss_mib)
       values ($1, $2, $3, $4, $5)`,
      [tenantId, runId, accountId, cause, rssMib],
    )
    const split = await tx.query<{ n: number }>(
      `insert into billing.statement_batch (tenant_id, run_id, n, split_of)
       select $1, $2, max(b.n) + 1, $3 from billing.statement_batch b
       where b.tenant_id = $1 and b.run_id = $2 and exists (
         select from billing.statement s where s.tenant_id = $1 and s.run_id = $2 and s.batch = $3
           and s.account_id <> $4 and s.state = 'pending')
       having count(*) > 0
       returning n`,
      [tenantId, runId, n, accountId],
    )
    for (const { n: own } of split) {
      await tx.query(
        `update billing.statement set batch = $4 where tenant_id = $1 and run_id = $2 and account_id = $3`,
        [tenantId, runId, accountId, own],
      )
    }
    return [n, ...split.map(({ n: own }) => own)]
  })
}
