import type { Email } from '../../adapters/email/client.ts'
import type { Delivery } from '../../adapters/http/provider.ts'
import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import type { Push } from '../../adapters/push/client.ts'
import type { Sms } from '../../adapters/sms/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import { asTenant } from '../sessions/tenant.ts'
import { type Draft, GuardedPayload, type MessageContent } from './guarded-payload.ts'

/** The ways out, by channel; undefined where none is configured. */
export interface Channels {
  sms: Sms | undefined
  push: Push | undefined
  email: Email | undefined
}

export interface DispatchSystems {
  readonly db: Database
  readonly config: Pick<Config, 'messaging'>
  channels(tenantId: string): Channels
}

/** A row of `communication.message`, as the worker claimed it that sends it. */
export interface ClaimedMessage {
  id: string
  /** The claim's number: whoever was overtaken by another sends nothing. */
  attempts: number
}

/**
 * One attempt to send a draft to the patient's own address: checked and put on record in one transaction, then handed to
 * the provider, then settled. The record says by which template, never the text, nor what the provider said beyond its id
 * or the code of an error. An attempt that died on the way stands there without a response; made again, it goes out under
 * the same key, so that it arrives once.
 *
 * @throws TabibError of `GuardedPayload.check`; PROVIDER_UNREACHABLE, EGRESS_REFUSED, CONFIG_INVALID; LOCKED when another
 * worker has claimed the message since, or it was erased.
 */
export async function dispatchMessage(
  systems: DispatchSystems,
  { message, ...draft }: Draft & { message?: ClaimedMessage },
): Promise<Delivery> {
  const { tenantId, attemptId } = draft
  const payload = await GuardedPayload.check(systems, draft, (tx, content) =>
    putOnRecord(tx, { attemptId, message, content }),
  )
  const { channel } = GuardedPayload.contentOf(payload)
  try {
    const way = systems.channels(tenantId)[channel]
    if (way === undefined) {
      throw new TabibError('CONFIG_INVALID', `no ${channel} provider is configured; nothing was sent`, {
        suggestions: ['docs/configuration.md'],
      })
    }
    const delivery = await way.send(payload, { key: message?.id ?? attemptId })
    await settle(systems, draft, { message, response: `sent as ${delivery.providerId}`, isSent: true })
    return delivery
  } catch (error) {
    const response = error instanceof TabibError ? error.code : 'failed'
    await settle(systems, draft, { message, response, isSent: false })
    throw error
  }
}

/**
 * The attempt, before it is made. The patient's row is held until this commits: an erasure comes before, and there is no
 * patient, or after, and finds the attempt.
 */
async function putOnRecord(
  tx: Transaction,
  {
    attemptId,
    message,
    content,
  }: { attemptId: string; message: ClaimedMessage | undefined; content: MessageContent },
): Promise<void> {
  const { tenantId, patientId, channel, to, category, template } = content
  const [held] = await tx.query(
    `select from virtual_care.patient p
     where p.id = $1 and ($2::uuid is null or exists (
       select from communication.message m
       where m.id = $2 and m.patient_id = p.id and m.status = 'queued' and m.attempts = $3))
     for share of p`,
    [patientId, message?.id, message?.attempts],
  )
  if (held === undefined) {
    throw new TabibError(
      'LOCKED',
      `attempt ${attemptId} is another worker's by now, or its patient is gone`,
      {
        retryable: true,
      },
    )
  }
  await tx.query(
    `insert into communication.dispatch_log
       (id, tenant_id, message_id, patient_id, channel, provider, recipient, request, category, template, template_version)
     values ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9, $10)
     on conflict (id) do update set response = null, scanned_at = null`,
    [
      ...[attemptId, tenantId, message?.id, patientId, channel, to],
      JSON.stringify({ template: template.id, version: template.version }),
      ...[category, template.id, template.version],
    ],
  )
}

/** How it went, of attempt and message at once. What was erased in the meantime stays as the erasure left it. */
async function settle(
  { db }: DispatchSystems,
  { tenantId, attemptId }: Draft,
  { message, response, isSent }: { message: ClaimedMessage | undefined; response: string; isSent: boolean },
): Promise<void> {
  await asTenant(db, tenantId, async (tx) => {
    await tx.query(
      `update communication.dispatch_log set response = $2, scanned_at = null where id = $1 and recipient is not null`,
      [attemptId, response],
    )
    if (message === undefined || !isSent) return
    await tx.query(
      `update communication.message set status = 'sent', sent_at = clock_timestamp(), last_error = null
       where id = $1 and status = 'queued'`,
      [message.id],
    )
  })
}
