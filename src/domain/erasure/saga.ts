import type { Nats } from '../../adapters/nats/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { raiseIncident } from '../incident/raise.ts'
import { resolveByKey } from '../incident/resolve.ts'
import { gatherIdentifiers, mergeIdentifiers, sealIdentifiers } from './identifiers.ts'
import { type Participant, type Rows, type Stores, type Subject, total } from './participant.ts'
import { findParticipant, type ParticipantId } from './participants.ts'
import { asErasure, subjectOf } from './perform.ts'
import { rememberSubject } from './request.ts'
import type { ErasureSecret } from './secret.ts'
import { sendStep } from './step.ts'

export interface SagaSystems extends Stores {
  readonly db: Database
  readonly nats: Nats
  erasureSecret(): Promise<ErasureSecret>
}

export interface SagaPass {
  /** Steps that participants were told of. */
  sent: number
  /** Told to NATS, which did not take it; their time comes again. */
  unsent: number
  /** Steps acknowledged since the last pass. */
  acknowledged: number
  /** Steps read again, and of those that had something again: they are done once more. */
  reread: number
  reopened: number
  /** Steps whose store could not be read. */
  unread: number
  /** Requests that are done but for the last reading, and those that are done for good. */
  watching: number
  completed: number
  /** Steps that people were told of, since too many attempts brought nothing. */
  exhausted: number
}

const MODE = 'communication/C15'
const RUNBOOK = 'runbooks/communication/c15-erasure-partial.md'
const SEND_AT_ONCE = 64
const BATCH = 500
/** Attempts at a step before people are told. It is attempted all the same, for ever. */
export const EXHAUSTED_AFTER = 8
/** How long before a legal deadline people are told. */
const WARNING = '3 days'
/** How long a request is watched after its last acknowledgement, for late events. */
export const WATCH = '24 hours'

/**
 * Brings all erasures one step on, by what Postgres says alone: holds, acknowledgements, what is read again, what is
 * complete, and what must be told to whom now. Killed anywhere and called again it comes to the same.
 */
export async function erasurePass(
  systems: SagaSystems,
  { signal }: { signal?: AbortSignal } = {},
): Promise<SagaPass> {
  const pass: SagaPass = {
    sent: 0,
    unsent: 0,
    acknowledged: 0,
    reread: 0,
    reopened: 0,
    unread: 0,
    watching: 0,
    completed: 0,
    exhausted: 0,
  }
  const { db } = systems
  await applyHolds(db)
  pass.acknowledged = await takeAcknowledgements(db)
  for (const which of ['first', 'second'] as const) await reread(systems, which, pass, signal)
  pass.watching = await watchRequests(db)
  pass.completed = await completeRequests(db)
  await sendDue(systems, pass, signal)
  pass.exhausted = await tellExhausted(db)
  return pass
}

/** A held step waits, and counts neither as due nor as late; once released it is due. */
async function applyHolds(db: Queryable): Promise<void> {
  await db.query(
    `update tabib.erasure_step s
     set state = case when h.held then 'held' else 'waiting' end, next_attempt_at = clock_timestamp()
     from (select s.request_id, s.participant, exists (
             select from tabib.erasure_hold h
             where h.tenant_id = r.tenant_id and h.subject_hash = r.subject_hash and h.released_at is null
               and (h.participants is null or s.participant = any(h.participants))) as held
           from tabib.erasure_step s join tabib.erasure_request r on r.id = s.request_id
           where s.state in ('waiting', 'sent', 'held')) h
     where h.request_id = s.request_id and h.participant = s.participant and h.held <> (s.state = 'held')
       and s.state in ('waiting', 'sent', 'held')`,
  )
}

async function takeAcknowledgements(db: Queryable): Promise<number> {
  const taken = await db.query(
    `update tabib.erasure_step s set state = 'done', last_error = null
     from tabib.erasure_ack a
     where (a.request_id, a.participant, a.round) = (s.request_id, s.participant, s.round) and s.state <> 'done'
     returning 1`,
  )
  return taken.length
}

interface DoneStep {
  requestId: string
  tenantId: string
  participant: ParticipantId
  round: number
  sealed: Buffer
  hash: Buffer
}

/**
 * Reads what was acknowledged once more, by itself and not by the word of whoever acknowledged: at once, and when the 24
 * hours are over. What is there again is one more round of that step.
 */
async function reread(
  systems: SagaSystems,
  which: 'first' | 'second',
  pass: SagaPass,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { db } = systems
  for (let full = true; full && !signal?.aborted; ) {
    const steps = await db.query<DoneStep>(
      which === 'first'
        ? `${DONE_STEP} where s.state = 'done' and s.reread_at is null and r.state = 'open' ${LIMIT}`
        : `${DONE_STEP} where s.state = 'done' and s.second_reread_at is null and r.state = 'watching'
             and r.watch_until <= clock_timestamp() ${LIMIT}`,
    )
    full = steps.length === BATCH
    for (const step of steps) {
      if (signal?.aborted) return
      // A store that does not answer must not keep all others from being read, and steps from being sent.
      const found = await rereadStep(systems, step, which).catch((error) => notRead(db, step, error))
      if (found === undefined) pass.unread += 1
      else pass.reread += 1
      if (found) pass.reopened += 1
    }
    // What was not read is read by the next pass.
    if (pass.unread > 0) return
  }
}

async function notRead(db: Queryable, step: DoneStep, error: unknown): Promise<undefined> {
  if (error instanceof TabibError && error.code === 'POSTGRES_UNREACHABLE') throw error
  await db.query('update tabib.erasure_step set last_error = $3 where request_id = $1 and participant = $2', [
    step.requestId,
    step.participant,
    error instanceof TabibError ? error.code : 'BUG',
  ])
}

const DONE_STEP = `select s.request_id as "requestId", s.tenant_id as "tenantId", s.participant, s.round, r.sealed,
    r.subject_hash as hash
  from tabib.erasure_step s join tabib.erasure_request r on r.id = s.request_id`
const LIMIT = `order by r.requested_at, s.stage, s.participant limit ${BATCH}`

/** How many rows a participant has again. @throws TabibError when its store does not answer. */
async function rereadStep(systems: SagaSystems, step: DoneStep, which: 'first' | 'second'): Promise<number> {
  const participant = findParticipant(step.participant)!
  const secret = await systems.erasureSecret()
  const subject = subjectOf(secret, step, step)
  const found = total(await residue(systems, participant, subject))
  const at = which === 'first' ? 'reread' : 'second_reread'
  await systems.db.transaction(async (tx) => {
    const noted = await tx.query(
      `update tabib.erasure_step set ${at}_at = clock_timestamp(), ${at}_found = $4
       where request_id = $1 and participant = $2 and round = $3 and state = 'done' returning 1`,
      [step.requestId, step.participant, step.round, found],
    )
    if (found === 0 || noted.length === 0) return
    await tx.query(
      `update tabib.erasure_step
       set state = 'waiting', round = round + 1, attempts = 0, next_attempt_at = clock_timestamp(), sent_at = null,
         planned = null, exhausted_at = null, reread_at = null, second_reread_at = null
       where request_id = $1 and participant = $2`,
      [step.requestId, step.participant],
    )
    await tx.query(
      `update tabib.erasure_request set state = 'open', watch_until = null where id = $1 and state = 'watching'`,
      [step.requestId],
    )
  })
  if (found > 0) await learnAgain(systems, step, subject)
  return found
}

/** Whoever came back may have come back with another number, which the other stores may have by now as well. */
async function learnAgain(systems: SagaSystems, step: DoneStep, subject: Subject): Promise<void> {
  const secret = await systems.erasureSecret()
  const { tenantId, hash, identifiers } = subject
  const seen = await asErasure(systems.db, tenantId, (tx) => gatherIdentifiers(tx, identifiers.subjectId))
  const all = mergeIdentifiers(identifiers, seen)
  await systems.db.transaction(async (tx) => {
    await tx.query(`update tabib.erasure_request set sealed = $2 where id = $1 and sealed is not null`, [
      step.requestId,
      sealIdentifiers(secret, step.requestId, all),
    ])
    await rememberSubject(tx, secret, { tenantId, hash, requestId: step.requestId, identifiers: all })
  })
}

/** What a participant's stores still have of a subject: in Postgres and outside. */
export async function residue(
  systems: Stores & { db: Database },
  participant: Participant,
  subject: Subject,
): Promise<Rows> {
  const inside = await asErasure(systems.db, subject.tenantId, (tx) => participant.count(tx, subject))
  return { ...inside, ...(await participant.outside?.count(systems, subject)) }
}

async function watchRequests(db: Queryable): Promise<number> {
  const watched = await db.query(
    `update tabib.erasure_request r set state = 'watching', watch_until = (
         select max(a.acked_at) from tabib.erasure_ack a where a.request_id = r.id) + $1::interval
     where r.state = 'open' and not exists (
       select from tabib.erasure_step s
       where s.request_id = r.id and (s.state <> 'done' or s.reread_at is null))
     returning 1`,
    [WATCH],
  )
  return watched.length
}

/** Completing destroys the identifiers; from then on the subject is known by keyed hash alone. */
async function completeRequests(db: Queryable): Promise<number> {
  const completed = await db.query(
    `update tabib.erasure_request r set state = 'complete', completed_at = clock_timestamp(), sealed = null
     where r.state = 'watching' and r.watch_until <= clock_timestamp() and not exists (
       select from tabib.erasure_step s
       where s.request_id = r.id and (s.state <> 'done' or s.second_reread_at is null))
     returning 1`,
  )
  return completed.length
}

interface DueStep {
  requestId: string
  tenantId: string
  participant: ParticipantId
  round: number
  attempt: number
}

/** Tells participants of what is due. The attempt is on record before it is made: a crash between costs one wait. */
async function sendDue(systems: SagaSystems, pass: SagaPass, signal: AbortSignal | undefined): Promise<void> {
  const { db, nats } = systems
  const [now] = await db.query<{ at: string }>('select clock_timestamp()::text as at')
  for (let full = true; full && !signal?.aborted; ) {
    const due = await claimDue(db, now!.at)
    full = due.length === BATCH
    for (let from = 0; from < due.length; from += SEND_AT_ONCE) {
      const sent = await Promise.allSettled(
        due.slice(from, from + SEND_AT_ONCE).map((step) => sendStep({ nats }, step)),
      )
      const unsent = sent.filter(({ status }) => status === 'rejected').length
      pass.sent += sent.length - unsent
      pass.unsent += unsent
      // NATS is away, or slow: what was claimed comes due again by itself.
      if (unsent === sent.length) return
    }
  }
}

/**
 * Steps whose turn had come at that moment, noted as sent once more: none is claimed twice by a pass, however long it
 * takes. Waits between attempts double from 5 s to 10 min, with jitter.
 */
function claimDue(db: Queryable, at: string): Promise<DueStep[]> {
  return db.query<DueStep>(
    `update tabib.erasure_step s
     set state = 'sent', attempts = attempts + 1, sent_at = coalesce(sent_at, clock_timestamp()),
       next_attempt_at = clock_timestamp()
         + make_interval(secs => least(600, 5 * 2 ^ least(attempts, 10)) * (0.75 + random() / 2))
     where (request_id, participant) in (
       select request_id, participant from tabib.erasure_step due
       where due.state in ('waiting', 'sent') and due.next_attempt_at <= $1::timestamptz and not exists (
         select from tabib.erasure_step before
         where before.request_id = due.request_id and before.stage < due.stage and before.state not in ('done', 'held'))
       order by due.next_attempt_at limit ${BATCH} for update skip locked)
     returning request_id as "requestId", tenant_id as "tenantId", participant, round, attempts as attempt`,
    [at],
  )
}

/** Tells people once of steps that attempt after attempt did not bring on, and takes that back when they are done. */
async function tellExhausted(db: Database): Promise<number> {
  return db.transaction(async (tx) => {
    const exhausted = await tx.query<{ participant: string; requests: number; error: string | null }>(
      `with told as (
         update tabib.erasure_step set exhausted_at = clock_timestamp()
         where state = 'sent' and attempts >= $1 and exhausted_at is null returning participant, last_error)
       select participant, count(*)::int as requests, max(last_error) as error from told group by participant`,
      [EXHAUSTED_AFTER],
    )
    for (const { participant, requests, error } of exhausted) {
      await raiseIncident(tx, {
        dedupeKey: `${MODE}:${participant}`,
        severity: 'page',
        mode: MODE,
        service: 'communication',
        title: `erasure: ${participant} has not acknowledged ${requests} requests after ${EXHAUSTED_AFTER} attempts`,
        detail: { participant, requests, error },
        runbook: RUNBOOK,
      })
    }
    await tellDeadlines(tx)
    const working = await tx.query<{ key: string }>(
      `select dedupe_key as key from tabib.incident i
       where i.state <> 'resolved' and starts_with(i.dedupe_key, $1) and not exists (
         select from tabib.erasure_step s
         where s.participant = substring(i.dedupe_key from length($1) + 1)
           and s.exhausted_at is not null and s.state in ('waiting', 'sent'))
         and i.dedupe_key <> $2`,
      [`${MODE}:`, DEADLINE_KEY],
    )
    for (const { key } of working) {
      await resolveByKey(tx, {
        dedupeKey: key,
        by: 'erasure-replay',
        resolution: 'the participant acknowledged what it owed',
      })
    }
    return exhausted.reduce((sum, { requests }) => sum + requests, 0)
  })
}

const DEADLINE_KEY = `${MODE}:deadline`

/** People hear of requests that will be late while there is time to mend what holds them up. */
async function tellDeadlines(tx: Queryable): Promise<void> {
  const [late] = await tx.query<{ requests: number; first: Date | null }>(
    `select count(*)::int as requests, min(deadline_at) as first from tabib.erasure_request
     where state = 'open' and deadline_at < clock_timestamp() + $1::interval`,
    [WARNING],
  )
  const { requests, first } = late!
  if (requests === 0) {
    const resolution = 'every request is done, or has time'
    await resolveByKey(tx, { dedupeKey: DEADLINE_KEY, by: 'erasure-replay', resolution })
    return
  }
  const [told] = await tx.query(`select from tabib.incident where dedupe_key = $1 and state <> 'resolved'`, [
    DEADLINE_KEY,
  ])
  if (told) return
  await raiseIncident(tx, {
    dedupeKey: DEADLINE_KEY,
    severity: 'page',
    mode: MODE,
    service: 'communication',
    title: `erasure: ${requests} requests are not done and their legal deadline is near, the first at ${first!.toISOString()}`,
    detail: { requests, first },
    runbook: RUNBOOK,
  })
}
