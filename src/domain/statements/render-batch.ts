import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Transform } from 'node:stream'
import { finished } from 'node:stream/promises'
import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import type { Draft, StatementStore } from '../../adapters/statement-store/client.ts'
import { storeFailure } from '../../adapters/statement-store/files.ts'
import { EXIT, TabibError } from '../../errors.ts'
import { redactUrls } from '../../render.ts'
import { type AccountOfRun, withAccountStatement } from './account-statement.ts'
import type { Fonts } from './fonts.ts'
import { renderStatement } from './render.ts'

/** A batch in the hands of one process. */
export interface HeldBatch {
  tenantId: string
  runId: string
  period: string
  n: number
  /** Who holds it: nothing is begun once somebody else does. */
  holder: string
}

interface Begun extends AccountOfRun {
  n: number
  attempts: number
  failures: number
}

interface Systems {
  db: Database
  store: StatementStore
  fonts: Fonts
}

/**
 * Renders what is left of a batch, account by account, and settles each: PDF stored, outcome and event committed together.
 * An account that fails is tried again at the end, then as a basic PDF, and is then put on record as failed. One
 * that is settled already is never settled again, whoever else renders it at this moment.
 * @param alive Told of each account before it is rendered, and again for each thousand of its lines.
 * @throws TabibError when Postgres or the store cannot be used: what is settled stays settled.
 */
export async function renderBatch(
  systems: Systems,
  batch: HeldBatch,
  alive: (accountId: string) => void,
): Promise<void> {
  for (;;) {
    const account = await begin(systems.db, batch)
    if (account === undefined) return
    alive(account.accountId)
    const manner = mannerOf(account)
    if (manner === 'give up') {
      await giveUp(systems.db, account)
      continue
    }
    try {
      await renderAccount(systems, batch, account, { manner, alive })
    } catch (error) {
      if (isOfTheSystems(error)) throw error
      await recordFailure(systems.db, account, error)
    }
  }
}

// Twice as it should be, then basic.
const FULL_TRIES = 2
const TRIES = 3
// Processes are killed for reasons of their own: every second such end counts.
const UNEXPLAINED_PER_TRY = 2

/** How to render next what was begun so often before and failed so often. */
export function mannerOf({ attempts, failures }: { attempts: number; failures: number }) {
  const unexplained = Math.max(0, attempts - 1 - failures)
  const tried = failures + Math.floor(unexplained / UNEXPLAINED_PER_TRY)
  if (tried >= TRIES) return 'give up'
  return tried >= FULL_TRIES ? 'basic' : 'full'
}

/** The next account of the batch, the untried first; on record as begun, so that a process that dies of it is seen to. */
async function begin(db: Database, { tenantId, runId, n, holder }: HeldBatch): Promise<Begun | undefined> {
  const [begun] = await db.query<Begun>(
    `update billing.statement s set attempts = attempts + 1, began_at = clock_timestamp()
     where s.tenant_id = $1 and s.run_id = $2 and s.state = 'pending' and s.account_id = (
       select account_id from billing.statement
       where tenant_id = $1 and run_id = $2 and batch = $3 and state = 'pending' order by attempts, n limit 1)
       and exists (select from billing.statement_batch
         where tenant_id = $1 and run_id = $2 and n = $3 and holder = $4)
     returning s.tenant_id as "tenantId", s.run_id as "runId", s.account_id as "accountId", s.n, attempts, failures`,
    [tenantId, runId, n, holder],
    'statement_begin',
  )
  return begun
}

async function renderAccount(
  { db, store, fonts }: Systems,
  { period }: HeldBatch,
  account: Begun,
  { manner, alive }: { manner: 'full' | 'basic'; alive(accountId: string): void },
): Promise<void> {
  const name = `${account.runId}-${account.n}-`
  // Of a renderer that was killed; an attempt that was taken back is not counted.
  await store.clearDrafts(name)
  const path = join(store.drafts, `${name}${process.pid}.pdf`)
  try {
    const { pages, ...draft } = await withAccountStatement(
      { db },
      account,
      (statement) =>
        draftTo(path, (out) => renderStatement(fonts, statement, { out, basic: manner === 'basic' })),
      () => alive(account.accountId),
    )
    const key = `${account.tenantId}/${period}/${account.accountId}.pdf`
    await db.transaction(async (tx) => {
      // Whoever else renders it waits here, and then finds it settled: what is stored is what is on record.
      if (!(await isPending(tx, account))) return
      await store.put(key, draft)
      await settle(tx, account, { state: manner === 'basic' ? 'basic' : 'rendered', key, pages, ...draft })
    })
  } finally {
    await rm(path, { force: true })
  }
}

/** Writes what `render` gives to a file, and digests it on the way. */
async function draftTo(
  path: string,
  render: (out: Transform) => Promise<{ pages: number }>,
): Promise<Draft & { pages: number }> {
  const hash = createHash('sha256')
  let bytes = 0
  const out = new Transform({
    transform(chunk: Buffer, _, done) {
      hash.update(chunk)
      bytes += chunk.length
      done(null, chunk)
    },
  })
  const file = createWriteStream(path, { mode: 0o600 })
  const written = finished(file)
  // It is awaited below; a disk that is full may be told before that.
  written.catch((error) => out.destroy(error))
  out.pipe(file)
  try {
    const { pages } = await render(out)
    out.end()
    await written
    return { path, sha256: hash.digest('hex'), bytes, pages }
  } catch (error) {
    file.destroy()
    // Until it is closed it may still be made: whoever removes the draft would come too early.
    await written.catch(() => {})
    throw file.errored ? storeFailure(path, file.errored) : error
  }
}

async function isPending(tx: Transaction, { tenantId, runId, accountId }: AccountOfRun): Promise<boolean> {
  const rows = await tx.query(
    `select from billing.statement
     where tenant_id = $1 and run_id = $2 and account_id = $3 and state = 'pending' for no key update`,
    [tenantId, runId, accountId],
    'statement_lock',
  )
  return rows.length > 0
}

interface Outcome extends Draft {
  state: 'rendered' | 'basic'
  key: string
  pages: number
}

/** Puts the outcome on record, with its event, unless a statement of the same bytes has had one. */
async function settle(tx: Transaction, account: Begun, outcome: Outcome): Promise<void> {
  const { tenantId, runId, accountId } = account
  await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId], 'statement_tenant')
  await tx.query(
    `with before as (
       select sha256 from billing.statement where tenant_id = $1::uuid and run_id = $2::uuid and account_id = $3::uuid
     ), settled as (
       update billing.statement s
       set state = $4, sha256 = $5, pages = $6, bytes = $7, object_key = $8, settled_at = clock_timestamp(), began_at = null,
         reason = case when $4 = 'basic' then reason end, detail = case when $4 = 'basic' then detail end
       where s.tenant_id = $1 and s.run_id = $2 and s.account_id = $3
     )
     insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
     select $1, 'statement', $3::uuid::text, 'rendered', jsonb_build_object('runId', $2::uuid, 'accountId', $3::uuid,
       'number', $9::int, 'manner', $4::text, 'sha256', $5::text, 'pages', $6::int, 'objectKey', $8::text)
     from before where before.sha256 is distinct from $5`,
    [
      tenantId,
      runId,
      accountId,
      outcome.state,
      outcome.sha256,
      outcome.pages,
      outcome.bytes,
      outcome.key,
      account.n,
    ],
    'statement_settle',
  )
}

// A basic PDF would state the same wrong figures.
const NOT_WORTH_TRYING = new Set(['ACCOUNT_FROZEN', 'LEDGER_DRIFT', 'ACCOUNT_UNKNOWN'])

async function recordFailure(
  db: Database,
  { tenantId, runId, accountId }: Begun,
  error: unknown,
): Promise<void> {
  const { reason, detail } = describeFailure(error)
  await db.query(
    `update billing.statement
     set failures = failures + 1, began_at = null, reason = $4, detail = $5,
       state = case when $6 then 'failed' else state end, settled_at = case when $6 then clock_timestamp() end
     where tenant_id = $1 and run_id = $2 and account_id = $3 and state = 'pending'`,
    [tenantId, runId, accountId, reason, detail, NOT_WORTH_TRYING.has(reason)],
    'statement_failed',
  )
}

async function giveUp(db: Database, { tenantId, runId, accountId }: Begun): Promise<void> {
  await db.query(
    `update billing.statement
     set state = 'failed', settled_at = clock_timestamp(), began_at = null, attempts = attempts - 1,
       reason = coalesce(reason, 'INTERRUPTED'),
       detail = coalesce(detail, 'each process that rendered it ended, and none said why')
     where tenant_id = $1 and run_id = $2 and account_id = $3 and state = 'pending'`,
    [tenantId, runId, accountId],
    'statement_give_up',
  )
}

/** A code and words for a run's detail. The words of an error that is not ours may quote a patient: it is named alone. */
function describeFailure(error: unknown): { reason: string; detail: string } {
  if (error instanceof TabibError) return { reason: error.code, detail: redactUrls(error.message) }
  const { name = 'Error', code, stack = '' } = error as Error & { code?: unknown }
  const place = /\n\s+at (.+)/.exec(stack)?.[1] ?? 'an unknown place'
  return { reason: 'BUG', detail: `${name}${typeof code === 'string' ? ` ${code}` : ''} at ${place}` }
}

/** Whether an error says nothing of the account: the next one would meet it as well. */
function isOfTheSystems(error: unknown): boolean {
  if (!(error instanceof TabibError)) return false
  if (NOT_WORTH_TRYING.has(error.code)) return false
  const { exitCode, code } = error
  return (
    exitCode === EXIT.unreachable ||
    exitCode === EXIT.unauthorised ||
    exitCode === EXIT.refused ||
    code === 'CONFIG_INVALID' ||
    code === 'TIMED_OUT'
  )
}
