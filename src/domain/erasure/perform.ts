import { setTimeout as delay } from 'node:timers/promises'
import * as z from 'zod'
import type { JsMsg, Nats } from '../../adapters/nats/client.ts'
import {
  type Database,
  isDatabaseAway,
  type Queryable,
  type Transaction,
} from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { unsealIdentifiers } from './identifiers.ts'
import { type Participant, type Rows, type Stores, type Subject, total } from './participant.ts'
import type { ErasureSecret } from './secret.ts'
import { STEP_STREAM, stepDurable, stepSubject } from './step.ts'

/** What a participant works with. */
export interface ParticipantSystems extends Stores {
  readonly db: Database
  readonly nats: Nats
  erasureSecret(): Promise<ErasureSecret>
}

export interface ParticipantPass {
  /** Steps done and acknowledged. */
  done: number
  rows: number
  /** Told again of what was acknowledged before, or of a round that is over. */
  repeated: number
  /** Kept, since a legal hold says so. */
  held: number
  failed: number
}

const stepMessage = z.object({ requestId: z.uuid(), tenantId: z.uuid(), round: z.int().min(1) })

/**
 * Takes what the stream has for a participant, up to `limit`, and does it. A step that fails is not delivered again: the
 * saga sends it once more when its time has come, so that there is one place that counts and waits.
 *
 * @throws TabibError POSTGRES_UNREACHABLE, NATS_UNREACHABLE, MIGRATION_REQUIRED.
 */
export async function participantPass(
  systems: ParticipantSystems,
  participant: Participant,
  { limit, expiresMs, instance, signal }: PassOptions,
): Promise<ParticipantPass> {
  const pass: ParticipantPass = { done: 0, rows: 0, repeated: 0, held: 0, failed: 0 }
  const messages = await fetchSteps(systems, participant, { limit, expiresMs })
  const stop = () => void messages.close()
  // The server ends a fetch by a message of its own, which never comes once the connection is lost.
  const listenOn = () => setTimeout(stop, expiresMs + SILENCE_MS)
  let silence = listenOn()
  signal?.addEventListener('abort', stop, { once: true })
  try {
    for await (const message of messages) {
      clearTimeout(silence)
      if (!signal?.aborted) await take(systems, participant, message, instance, pass)
      silence = listenOn()
    }
  } catch (cause) {
    if (cause instanceof TabibError) throw cause
    throw new TabibError('NATS_UNREACHABLE', `${participant.id} cannot read its steps`, { cause })
  } finally {
    clearTimeout(silence)
    signal?.removeEventListener('abort', stop)
  }
  return pass
}

export interface PassOptions {
  limit: number
  /** How long to wait for steps; the server wants a second at least. */
  expiresMs: number
  /** Which process this is, for the acknowledgement. */
  instance: string
  signal?: AbortSignal
}

const SILENCE_MS = 2_000
const BATCH = 64

/** Does steps until aborted; an outage of Postgres or NATS is waited out. */
export async function runParticipant(
  systems: ParticipantSystems,
  participant: Participant,
  {
    instance,
    signal,
    onPass,
    onOutage,
  }: {
    instance: string
    signal: AbortSignal
    onPass(pass: ParticipantPass): void
    onOutage(error: unknown): void
  },
): Promise<void> {
  let ready = false
  for (let failures = 0; !signal.aborted; ) {
    try {
      if (!ready) await ensureSteps(systems, participant)
      ready = true
      onPass(
        await participantPass(systems, participant, { limit: BATCH, expiresMs: 5_000, instance, signal }),
      )
      failures = 0
    } catch (error) {
      const isOutage =
        error instanceof TabibError && (isDatabaseAway(error) || error.code === 'NATS_UNREACHABLE')
      if (!isOutage) throw error
      onOutage(error)
      ready = false
      failures += 1
      const pauseMs = Math.min(30_000, 250 * 2 ** failures) * (0.75 + Math.random() / 2)
      await delay(pauseMs, undefined, { signal }).catch(() => {})
    }
  }
}

/** Does what there is and returns when a pass brings nothing. */
export async function drainParticipant(
  systems: ParticipantSystems,
  participant: Participant,
  { instance, signal }: Pick<PassOptions, 'instance' | 'signal'>,
): Promise<ParticipantPass> {
  await ensureSteps(systems, participant)
  const sum: ParticipantPass = { done: 0, rows: 0, repeated: 0, held: 0, failed: 0 }
  for (let last = 1; last > 0 && !signal?.aborted; ) {
    const pass = await participantPass(systems, participant, {
      limit: BATCH,
      expiresMs: 1_000,
      instance,
      ...(signal && { signal }),
    })
    for (const key of Object.keys(sum) as (keyof ParticipantPass)[]) sum[key] += pass[key]
    last = pass.done + pass.repeated + pass.held + pass.failed
  }
  return sum
}

/** Makes the participant's durable, or brings its settings up to date. */
export async function ensureSteps({ nats }: { nats: Nats }, { id }: Participant): Promise<void> {
  if (!(await nats.stream(STEP_STREAM.name))) {
    throw new TabibError('MIGRATION_REQUIRED', `there is no stream ${STEP_STREAM.name}`, {
      suggestions: ['tabib migrate up'],
    })
  }
  await nats.ensureConsumer(STEP_STREAM.name, {
    durable_name: stepDurable(id),
    filter_subject: stepSubject(id),
    ack_policy: 'explicit',
    deliver_policy: 'all',
    ack_wait: 30_000_000_000,
    max_ack_pending: 256,
  })
}

async function fetchSteps(
  { nats }: { nats: Nats },
  { id }: Participant,
  { limit, expiresMs }: Pick<PassOptions, 'limit' | 'expiresMs'>,
) {
  try {
    const pull = await nats.consumer(STEP_STREAM.name, stepDurable(id))
    return await pull.fetch({ max_messages: limit, expires: expiresMs })
  } catch (cause) {
    if (cause instanceof TabibError) throw cause
    throw new TabibError('NATS_UNREACHABLE', `${id} cannot read its steps`, { cause })
  }
}

async function take(
  systems: ParticipantSystems,
  participant: Participant,
  message: JsMsg,
  instance: string,
  pass: ParticipantPass,
): Promise<void> {
  const said = stepMessage.safeParse(parseJson(message.data))
  // What others put there means nothing: whatever is to be done stands in Postgres.
  if (!said.success) {
    message.term()
    return
  }
  try {
    const outcome = await performStep(systems, participant, { ...said.data, instance })
    if (outcome.kind === 'done') pass.rows += outcome.rows
    pass[outcome.kind] += 1
    message.ack()
  } catch (error) {
    if (isDatabaseAway(error)) throw error
    const code = error instanceof TabibError ? error.code : 'BUG'
    await recordFailure(systems.db, participant, said.data, code)
    pass.failed += 1
    message.ack()
  }
}

type StepOutcome = { kind: 'done'; rows: number } | { kind: 'repeated' } | { kind: 'held' }

/**
 * Does one step and acknowledges it, once however often it is called: what it changes in Postgres commits with its
 * acknowledgement. A process that dies before has changed nothing there; what lies elsewhere is erased again, which
 * changes nothing either.
 */
export async function performStep(
  systems: Omit<ParticipantSystems, 'nats'>,
  participant: Participant,
  step: { requestId: string; tenantId: string; round: number; instance: string },
): Promise<StepOutcome> {
  const secret = await systems.erasureSecret()
  const place = await asErasure(systems.db, step.tenantId, async (tx) => {
    const asked = await readStep(tx, participant, step)
    if (asked.kind !== 'due' || !participant.outside) return asked
    // Before it is touched: a process that dies there must not leave us with "nothing was there".
    const found = asked.planned ?? (await participant.outside.count(systems, subjectOf(secret, step, asked)))
    await tx.query(
      'update tabib.erasure_step set planned = $3 where request_id = $1 and participant = $2 and planned is null',
      [step.requestId, participant.id, JSON.stringify(found)],
    )
    return { ...asked, planned: found }
  })
  if (place.kind !== 'due') return { kind: place.kind }
  const subject = subjectOf(secret, step, place)
  await participant.outside?.erase(systems, subject)
  const position = await participant.outside?.position(systems)
  return asErasure(systems.db, step.tenantId, async (tx) => {
    // Of two that were told of one step, the second waits here and then finds the acknowledgement.
    await tx.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [
      `erasure:${step.requestId}:${participant.id}`,
    ])
    const still = await readStep(tx, participant, step)
    if (still.kind !== 'due') return { kind: still.kind }
    const rows: Rows = { ...place.planned, ...(await participant.erase(tx, subject, systems)) }
    await tx.query(
      `insert into tabib.erasure_ack
         (request_id, participant, round, tenant_id, rows_affected, position, detail, instance)
       values ($1, $2, $3, $4, $5, coalesce($6, 'pg:' || pg_current_wal_insert_lsn()), $7, $8)`,
      [
        step.requestId,
        participant.id,
        step.round,
        step.tenantId,
        total(rows),
        position,
        JSON.stringify(rows),
        step.instance,
      ],
    )
    return { kind: 'done', rows: total(rows) }
  })
}

type Asked =
  | { kind: 'repeated' }
  | { kind: 'held' }
  | { kind: 'due'; sealed: Buffer; hash: Buffer; planned: Rows | null }

async function readStep(
  tx: Transaction,
  { id }: Participant,
  { requestId, round }: { requestId: string; round: number },
): Promise<Asked> {
  const [step] = await tx.query<{
    sealed: Buffer | null
    hash: Buffer
    planned: Rows | null
    over: boolean
    early: boolean
    held: boolean
  }>(
    `select r.sealed, r.subject_hash as hash, s.planned,
       s.round <> $3 or exists (
         select from tabib.erasure_ack a where (a.request_id, a.participant, a.round) = ($1, $2, $3)) as over,
       exists (select from tabib.erasure_step before
         where before.request_id = $1 and before.stage < s.stage and before.state not in ('done', 'held') and not exists (
           select from tabib.erasure_ack a
           where (a.request_id, a.participant, a.round) = ($1, before.participant, before.round))) as early,
       exists (select from tabib.erasure_hold h where h.subject_hash = r.subject_hash and h.released_at is null
         and (h.participants is null or $2 = any(h.participants))) as held
     from tabib.erasure_request r join tabib.erasure_step s on s.request_id = r.id and s.participant = $2
     where r.id = $1`,
    [requestId, id, round],
    'erasure_read_step',
  )
  // Of another tenant than the message says, or of nobody: row-level security shows none.
  if (!step || step.over || step.sealed === null) return { kind: 'repeated' }
  // Whoever said so is not the saga, which keeps the stages in their order.
  if (step.early) return { kind: 'repeated' }
  if (step.held) return { kind: 'held' }
  return { kind: 'due', sealed: step.sealed, hash: step.hash, planned: step.planned }
}

export function subjectOf(
  secret: ErasureSecret,
  { requestId, tenantId }: { requestId: string; tenantId: string },
  { sealed, hash }: { sealed: Buffer; hash: Buffer },
): Subject {
  const identifiers = unsealIdentifiers(secret, requestId, sealed)
  return { tenantId, hash, identifiers, ...pseudonymsOf(secret, hash) }
}

export function pseudonymsOf(secret: ErasureSecret, hash: Buffer): Pick<Subject, 'pseudonym' | 'pseudonyms'> {
  const pseudonyms = secret.pseudonymsOf(hash)
  return { pseudonym: pseudonyms[0]!, pseudonyms }
}

/** A transaction as `tabib_erasure` for one tenant: row-level security keeps it off all others. */
export function asErasure<T>(
  db: Database,
  tenantId: string,
  work: (tx: Transaction) => Promise<T>,
): Promise<T> {
  return db.transaction(async (tx) => {
    await tx.query(
      `select set_config('role', 'tabib_erasure', true), set_config('app.tenant_id', $1, true)`,
      [tenantId],
      'erasure_begin',
    )
    return work(tx)
  })
}

async function recordFailure(
  db: Database,
  { id }: Participant,
  { requestId, tenantId, round }: { requestId: string; tenantId: string; round: number },
  code: string,
): Promise<void> {
  await asErasure(db, tenantId, (tx: Queryable) =>
    tx.query(
      'update tabib.erasure_step set last_error = $4 where request_id = $1 and participant = $2 and round = $3',
      [requestId, id, round, code],
    ),
  )
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString())
  } catch {
    return undefined
  }
}
