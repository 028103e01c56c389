import { randomUUID } from 'node:crypto'
import { type Database, isDatabaseAway, type Queryable } from '../../adapters/postgres/client.ts'
import { type ErrorCode, TabibError } from '../../errors.ts'
import { type ErasedSystems, erasedHash } from '../erasure/erased.ts'
import { asErasure, pseudonymsOf } from '../erasure/perform.ts'
import { heldParticipants } from '../erasure/request.ts'
import { asTenant } from '../sessions/tenant.ts'
import { type ClaimedMessage, type DispatchSystems, dispatchMessage } from './dispatch.ts'
import { CHANNELS } from './template.ts'
import { EXPIRES_AT } from './waiting.ts'

export interface DispatchPass {
  sent: number
  /** To be tried again, each at a time of its own. */
  postponed: number
  /** For good: what they say or whom they are for does not allow it. */
  failed: number
  /** Of patients who are erased; they are not sent, and name nobody any more. */
  cancelled: number
}

type MessageSystems = DispatchSystems & ErasedSystems

interface Due extends ClaimedMessage {
  tenantId: string
}

/** Longer than any attempt takes: a message whose worker died is claimed again then. */
const CLAIM_S = 120
const AT_ONCE = 8
/** Nothing but somebody who changes the message, its template or its patient would make these go out. */
const FOR_GOOD = new Set<ErrorCode>([
  'MESSAGE_INVALID',
  'PATIENT_DATA_REFUSED',
  'RECIPIENT_UNKNOWN',
  'NOT_FOUND',
])

/**
 * Sends messages that are due, up to `limit`: each by the version of its template that is in use, to its patient's own
 * address, under its id as the key. What is of a halted category, or of a channel without a provider, waits unclaimed.
 * Killed anywhere and called again, every message arrives once and none is lost: until it is settled it comes due again.
 *
 * @throws TabibError POSTGRES_UNREACHABLE; CONFIG_INVALID where somebody was erased and there is no secret to tell whom.
 */
export async function dispatchDue(
  systems: MessageSystems,
  { limit, signal }: { limit: number; signal?: AbortSignal },
): Promise<DispatchPass> {
  const pass: DispatchPass = { sent: 0, postponed: 0, failed: 0, cancelled: 0 }
  const { sms, push, email } = systems.config.messaging
  const ways = CHANNELS.filter((channel) => ({ sms, push, email })[channel] !== undefined)
  if (ways.length === 0) return pass
  const due = await claimDue(systems.db, { ways, limit, maxAgeMs: systems.config.messaging.maxAgeMs })
  const takeOn = async (): Promise<void> => {
    for (let one = due.shift(); one !== undefined; one = due.shift()) {
      // Whoever stops hands back what it has not begun.
      if (signal?.aborted) await postpone(systems.db, one, null)
      else pass[await take(systems, one)] += 1
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: AT_ONCE }, takeOn))
  const broken = ended.find((one) => one.status === 'rejected')
  if (broken !== undefined) throw broken.reason
  return pass
}

/**
 * What is due and still worth sending, claimed for two minutes. Of a halted category nothing is; it goes out once that is
 * resumed.
 */
function claimDue(
  db: Queryable,
  { ways, limit, maxAgeMs }: { ways: readonly string[]; limit: number; maxAgeMs: number },
): Promise<Due[]> {
  return db.query<Due>(
    `update communication.message
     set attempts = attempts + 1, first_tried_at = coalesce(first_tried_at, clock_timestamp()), due_at = clock_timestamp() + make_interval(secs => ${CLAIM_S})
     where id in (
       select id from communication.message due
       where status = 'queued' and due_at <= clock_timestamp() and channel = any($2)
         and ${EXPIRES_AT} > clock_timestamp() and not exists (
         select from communication.template t
         join communication.category_halt h on h.category = t.category and h.resumed_at is null
         where t.id = due.template and t.state = 'current' and h.tenant_id = due.tenant_id)
       order by due_at limit $3 for update skip locked)
     returning id, tenant_id as "tenantId", attempts`,
    [maxAgeMs, ways, limit],
    'message_claim',
  )
}

async function take(systems: MessageSystems, due: Due): Promise<keyof DispatchPass> {
  const { db } = systems
  const { tenantId } = due
  const message = await readMessage(db, due)
  if (message === undefined) return 'postponed'
  const { patientId } = message
  if (await cancelOfErased(systems, { ...due, patientId })) return 'cancelled'
  try {
    await dispatchMessage(systems, {
      ...{ tenantId, patientId, attemptId: randomUUID(), message: due },
      ...{ recipient: message.recipient, variables: message.variables, template: templateOf(message) },
    })
    return 'sent'
  } catch (error) {
    // Of these it comes due again by itself: with the end of its claim.
    if (!(error instanceof TabibError) || isDatabaseAway(error)) throw error
    if (error.code === 'LOCKED') return 'postponed'
    const isForGood = FOR_GOOD.has(error.code) || (error.code === 'PROVIDER_UNREACHABLE' && !error.retryable)
    if (isForGood) await fail(db, due, error.code)
    // Of a halted category it is not claimed again before that is resumed.
    else await postpone(db, due, error.code === 'CATEGORY_HALTED' ? null : error.code)
    return isForGood ? 'failed' : 'postponed'
  }
}

interface QueuedMessage {
  patientId: string
  template: string
  /** In use now. */
  version: number | null
  recipient: string | null
  variables: Record<string, unknown>
}

async function readMessage(
  db: Database,
  { tenantId, id, attempts }: Due,
): Promise<QueuedMessage | undefined> {
  const [message] = await asTenant(db, tenantId, (tx) =>
    tx.query<QueuedMessage>(
      `select patient_id as "patientId", template, recipient, variables,
         (select version from communication.template t where t.id = m.template and t.state = 'current') as version
       from communication.message m where id = $1 and attempts = $2 and status = 'queued'`,
      [id, attempts],
    ),
  )
  return message
}

// Version 0 is never there: the guard says so.
const templateOf = ({ template, version }: QueuedMessage) => ({ id: template, version: version ?? 0 })

/**
 * Somebody who is erased, or about to be, is not written to. Where no hold keeps it the message becomes what an erasure
 * would leave of it, at once: it may have come after that, out of the preflight for one.
 */
async function cancelOfErased(
  systems: MessageSystems,
  { tenantId, patientId, id }: Due & { patientId: string },
): Promise<boolean> {
  const hash = await erasedHash(systems, { tenantId, patientId })
  if (hash === undefined) return false
  const { pseudonym } = pseudonymsOf(await systems.erasureSecret(), hash)
  await asErasure(systems.db, tenantId, async (tx) => {
    const isHeld = (await heldParticipants(tx, hash)).includes('communication')
    await tx.query(
      isHeld
        ? `update communication.message set status = 'cancelled' where id = $1 and status = 'queued'`
        : `update communication.message set status = 'cancelled', patient_id = $2, recipient = null, variables = '{}'
           where id = $1 and status = 'queued'`,
      isHeld ? [id] : [id, pseudonym],
    )
  })
  return true
}

async function fail(db: Database, { tenantId, id, attempts }: Due, code: string): Promise<void> {
  await asTenant(db, tenantId, (tx) =>
    tx.query(
      `update communication.message set status = 'failed', last_error = $3
       where id = $1 and status = 'queued' and attempts = $2`,
      [id, attempts, code],
    ),
  )
}

/** Waits double from 5 s to 10 min, with jitter; without a code it is due at once, and was not attempted. */
async function postpone(db: Database, { tenantId, id, attempts }: Due, code: string | null): Promise<void> {
  await asTenant(db, tenantId, (tx) =>
    tx.query(
      `update communication.message set last_error = coalesce($3, last_error),
         due_at = clock_timestamp() + case when $3::text is null then interval '0'
           else make_interval(secs => least(600, 5 * 2 ^ least($2::int - 1, 10)) * (0.75 + random() / 2)) end
       where id = $1 and status = 'queued' and attempts = $2`,
      [id, attempts, code],
    ),
  )
}
