import type { Database } from '../../adapters/postgres/client.ts'
import { ERROR_CODES, EXIT, TabibError } from '../../errors.ts'
import { type AuditEntry, appendAudit } from './append.ts'

/** What a command knows about its own operation; the base class adds who, where and which run. */
export type OperationDetails = Pick<
  AuditEntry,
  | 'targets'
  | 'actorProof'
  | 'approver'
  | 'approval'
  | 'planHash'
  | 'reason'
  | 'incident'
  | 'failureMode'
  | 'tenantCount'
>

export type Operation = OperationDetails &
  Pick<AuditEntry, 'runId' | 'actor' | 'context' | 'command' | 'argsRedacted' | 'version'>

/**
 * Runs work between two audit records. Nothing is changed when `before` cannot be written; failed work is recorded
 * with its error's code, and its error thrown on.
 */
export async function auditOperation<T>(
  db: Database,
  operation: Operation,
  work: () => Promise<T>,
): Promise<T> {
  await appendAudit(db, { ...operation, phase: 'before' })
  const startedAt = performance.now()
  const ended = (outcome: 'ok' | 'failed', exitCode: number, errorCode?: string) =>
    appendAudit(db, {
      ...operation,
      phase: 'after',
      outcome,
      exitCode,
      errorCode,
      durationMs: Math.round(performance.now() - startedAt),
    })
  let result: T
  try {
    result = await work()
  } catch (error) {
    const errorCode = error instanceof TabibError ? error.code : 'BUG'
    // The work's own error matters more than a trail that cannot be written just now.
    await ended('failed', ERROR_CODES[errorCode], errorCode).catch(() => {})
    throw error
  }
  await ended('ok', EXIT.ok)
  return result
}

/** How long a lock outlives a holder that died. */
const LEASE_S = 30

/**
 * Takes a target for one severe operation; disposing gives it back. Renewed while held, so that a holder that died
 * blocks the next for half a minute at most.
 * @throws TabibError LOCKED naming who holds the target, what they run and since when.
 */
export async function holdTarget(
  db: Database,
  { target, runId, actor, command }: { target: string; runId: string; actor: string; command: string },
): Promise<AsyncDisposable> {
  const taken = await db.query(
    `insert into tabib.operation_lock as held (target, run_id, actor, command, taken_at, expires_at)
     values ($1, $2, $3, $4, clock_timestamp(), clock_timestamp() + make_interval(secs => $5))
     on conflict (target) do update
       set run_id = excluded.run_id, actor = excluded.actor, command = excluded.command,
           taken_at = excluded.taken_at, expires_at = excluded.expires_at
       where held.expires_at < clock_timestamp()
     returning target`,
    [target, runId, actor, command, LEASE_S],
  )
  if (taken.length === 0) throw await heldByAnother(db, target)
  const renewal = setInterval(
    () => {
      void db
        .query(
          `update tabib.operation_lock set expires_at = clock_timestamp() + make_interval(secs => $3)
           where target = $1 and run_id = $2`,
          [target, runId, LEASE_S],
        )
        // A renewal that fails leaves the lease to run out; the next one may succeed.
        .catch(() => {})
    },
    (LEASE_S * 1_000) / 3,
  )
  renewal.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(renewal)
      await db.query('delete from tabib.operation_lock where target = $1 and run_id = $2', [target, runId])
    },
  }
}

async function heldByAnother(db: Database, target: string): Promise<TabibError> {
  const [held] = await db.query<{ run_id: string; actor: string; command: string; taken_at: Date }>(
    'select run_id, actor, command, taken_at from tabib.operation_lock where target = $1',
    [target],
  )
  const who = held
    ? `${held.actor} runs "${held.command}" on it since ${held.taken_at.toISOString()} (run ${held.run_id})`
    : 'another operator had it a moment ago'
  return new TabibError('LOCKED', `${target} is taken: ${who}`, {
    suggestions: held ? [`tabib audit list --run ${held.run_id}`] : ['the same command again'],
    retryable: true,
    context: { target, ...(held ? { actor: held.actor, runId: held.run_id } : {}) },
  })
}

/** A patient's id is no secret, but the trail is for ever, and patients may be erased. */
const SECRET_FLAG = /^--[\w-]*(password|secret|token|key-file|passphrase|credential|patient)[\w-]*/i

/** The command line for the trail: values of flags that hold secrets, and users and passwords in URLs, taken out. */
export function redactArgv(argv: readonly string[]): string[] {
  return argv.map((arg, i) => {
    if (SECRET_FLAG.test(arg) && arg.includes('=')) return `${arg.slice(0, arg.indexOf('='))}=***`
    const before = argv[i - 1]
    if (before !== undefined && SECRET_FLAG.test(before) && !before.includes('=') && !arg.startsWith('-'))
      return '***'
    return arg.replace(/(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi, '$1')
  })
}
