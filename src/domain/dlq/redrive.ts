import { setTimeout as delay } from 'node:timers/promises'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { EXIT, TabibError } from '../../errors.ts'
import { SERVICES, schemaOf } from '../../service.ts'
import { closeSettledIncidents } from '../inbox/incidents.ts'
import type { QuarantinedEvent, QuarantineFilter } from './list.ts'
import { planEvents } from './plan.ts'

export interface RedrivePlan {
  /** To be sent again, oldest first; those that a run before this one sent and did not see the end of included. */
  events: QuarantinedEvent[]
  /** Events of an outbox that must wait: an earlier event of their aggregate is open and not among these. */
  behind: string[]
}

export interface RedriveOptions {
  ids: readonly string[]
  /** How many are sent first, and must be handled before the rest is. 0: no canary. */
  canary: number
  /** Events a second after the canary. */
  ratePerS: number
  /** Whether to stay until every event has its result. */
  wait: boolean
  /** How long a canary may take. */
  canaryTimeoutMs: number
  /** The run, for the record. */
  run: string
  by: string
  signal: AbortSignal
  onProgress?: (progress: { sent: number; of: number }) => void
}

export interface Redriven {
  sent: number
  /** Handled or published, as far as was seen. */
  redriven: number
  /** Back in quarantine, by id. */
  failed: string[]
  /** Sent, result not seen. */
  pending: number
  /** Never sent, because the canary failed. */
  kept: number
}

/** Reads what a redrive would send. @throws TabibError NOT_FOUND, USAGE */
export async function planRedrive({ db }: { db: Queryable }, filter: QuarantineFilter): Promise<RedrivePlan> {
  const chosen = await planEvents({ db }, filter, ['open', 'redriving'])
  const behind = await db.query<{ id: string }>(
    `select q.id from tabib.quarantine q
     where q.id = any($1::uuid[]) and q.origin = 'outbox' and exists (
       select from tabib.quarantine before
       where before.service = q.service and before.origin = 'outbox' and before.state = 'open'
         and before.aggregate_type = q.aggregate_type and before.aggregate_id = q.aggregate_id
         and before.seq < q.seq and before.id <> all($1::uuid[]))`,
    [chosen.map(({ id }) => id)],
  )
  const waiting = new Set(behind.map(({ id }) => id))
  return { events: chosen.filter(({ id }) => !waiting.has(id)), behind: [...waiting] }
}

/**
 * Sends events again: first a canary, whose result is awaited, then the rest at a rate. An event of an outbox is handed
 * to the relay; one that a consumer gave up on goes to its subject under a message id of its own for each time. Killed
 * at any point and started again it ends the same: what was sent already is recognised by stream and inbox.
 *
 * @throws TabibError TIMED_OUT when nobody handled the canary in time, PARTIAL when NATS or Postgres went away midway,
 * and the signal's reason.
 */
export async function redriveEvents(
  { db, nats }: { db: Database; nats: Nats },
  options: RedriveOptions,
): Promise<Redriven> {
  const { ids, canary, ratePerS, wait, signal, onProgress } = options
  const first = ids.slice(0, canary)
  const rest = ids.slice(canary)
  let sent = 0
  const send = async (id: string) => {
    signal.throwIfAborted()
    await sendAgain({ db, nats }, id, options)
    sent += 1
    onProgress?.({ sent, of: ids.length })
  }
  try {
    for (const id of first) await send(id)
    const tried = await awaitResults({ db }, first, { ...options, timeoutMs: options.canaryTimeoutMs })
    if (tried.pending > 0) throw canaryTimedOut(options, tried.pending)
    if (tried.failed.length > 0) return { ...tried, sent, kept: rest.length }

    const startedAt = performance.now()
    for (const [n, id] of rest.entries()) {
      await pauseUntil(startedAt + (n * 1_000) / ratePerS, signal)
      await send(id)
    }
    const timeoutMs = wait ? Number.POSITIVE_INFINITY : 0
    return { ...(await awaitResults({ db }, ids, { signal, timeoutMs })), sent, kept: 0 }
  } catch (error) {
    throw sent > 0 && isOutage(error) ? cutOff(error as TabibError, sent, ids.length) : error
  } finally {
    await closeSettledIncidents({ db }, { by: options.by, resolution: 'redriven' }).catch(() => {})
  }
}

interface Claimed {
  origin: 'outbox' | 'inbox'
  eventId: string
  subject: string | null
  redrives: number
  headers: Record<string, string> | null
  payload: Buffer
}

async function sendAgain(
  { db, nats }: { db: Database; nats: Nats },
  id: string,
  { run, by }: Pick<RedriveOptions, 'run' | 'by'>,
): Promise<void> {
  // Taken up again after a crash it keeps its number, hence its message id.
  const [event] = await db.query<Claimed>(
    `update tabib.quarantine
     set state = 'redriving', redrives = redrives + (state = 'open' and origin = 'inbox')::int, redrive_run = $2,
         resolved_by = $3
     where id = $1 and state in ('open', 'redriving')
     returning origin, event_id as "eventId", subject, redrives, headers, payload`,
    [id, run, by],
  )
  if (!event || event.origin === 'outbox') return
  const eventId = encodeURI(event.eventId)
  try {
    await nats.store({
      subject: event.subject ?? '',
      messageId: `${eventId}:redrive:${id}:${event.redrives}`,
      headers: new Map([
        ...Object.entries(event.headers ?? {}),
        ['tabib-redrive', id],
        ['tabib-event-id', eventId],
      ]),
      payload: event.payload,
    })
  } catch (error) {
    if (isOutage(error)) throw error
    await db.query(
      `update tabib.quarantine set state = 'open', resolved_by = null, detail = $2 where id = $1 and state = 'redriving'`,
      [id, `could not be sent again: ${error instanceof Error ? error.message : error}`],
    )
  }
}

/** Waits until none of the events is under way any more, or the time is over. */
async function awaitResults(
  { db }: { db: Database },
  ids: readonly string[],
  { signal, timeoutMs }: { signal: AbortSignal; timeoutMs: number },
): Promise<Pick<Redriven, 'redriven' | 'failed' | 'pending'>> {
  const deadline = performance.now() + timeoutMs
  for (let waitMs = 20; ; waitMs = Math.min(waitMs * 1.5, 500)) {
    const results = await readResults({ db }, ids)
    if (results.pending === 0 || performance.now() >= deadline) return results
    await pauseUntil(Math.min(performance.now() + waitMs, deadline), signal)
  }
}

async function readResults(
  { db }: { db: Database },
  ids: readonly string[],
): Promise<Pick<Redriven, 'redriven' | 'failed' | 'pending'>> {
  // A consumer in another language knows the inbox and not our quarantine: its entry is the result.
  for (const service of SERVICES) {
    await db.query(
      `update tabib.quarantine q set state = 'redriven', resolved_at = now()
       where q.id = any($1::uuid[]) and q.service = $2 and q.origin = 'inbox' and q.state = 'redriving'
         and exists (select from ${schemaOf(service)}.inbox i
                     where i.consumer = q.consumer and i.event_id = q.event_id)`,
      [ids, service],
    )
  }
  const rows = await db.query<{ id: string; state: string }>(
    'select id, state from tabib.quarantine where id = any($1::uuid[])',
    [ids],
  )
  return {
    redriven: rows.filter(({ state }) => state === 'redriven' || state === 'discarded').length,
    failed: rows.filter(({ state }) => state === 'open' || state === 'held').map(({ id }) => id),
    pending: rows.filter(({ state }) => state === 'redriving').length,
  }
}

async function pauseUntil(atMs: number, signal: AbortSignal): Promise<void> {
  const leftMs = atMs - performance.now()
  if (leftMs > 0) await delay(leftMs, undefined, { signal }).catch(() => {})
  signal.throwIfAborted()
}

const isOutage = (error: unknown): boolean =>
  error instanceof TabibError && error.exitCode === EXIT.unreachable

function canaryTimedOut({ canaryTimeoutMs, ids }: RedriveOptions, pending: number): TabibError {
  return new TabibError(
    'TIMED_OUT',
    `${pending} canaries were sent and have no result after ${canaryTimeoutMs / 1_000} s: is the consumer or the relay running?`,
    { retryable: true, suggestions: ['tabib worker list'], context: { pending, kept: ids.length - pending } },
  )
}

function cutOff(cause: TabibError, sent: number, of: number): TabibError {
  return new TabibError('PARTIAL', `${sent} of ${of} events were sent again, then: ${cause.message}`, {
    cause,
    retryable: true,
    context: { sent, of },
  })
}
