import type { Email } from '../../adapters/email/client.ts'
import type { Delivery } from '../../adapters/http/provider.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import type { Push } from '../../adapters/push/client.ts'
import type { Sms } from '../../adapters/sms/client.ts'
import { TabibError } from '../../errors.ts'
import { asTenant } from '../sessions/tenant.ts'
import { type Draft, GuardedPayload } from './guarded-payload.ts'

/** The ways out, by channel; undefined where none is configured. */
export interface Channels {
  sms: Sms | undefined
  push: Push | undefined
  email: Email | undefined
}

export interface DispatchSystems {
  readonly db: Database
  channels(tenantId: string): Channels
}

/**
 * Checks a draft, sends it, and records the attempt: by which template, never the text, nor what the provider said
 * beyond its id or the code of an error.
 *
 * @throws TabibError of `GuardedPayload.check`; PROVIDER_UNREACHABLE, CONFIG_INVALID
 */
export async function dispatchMessage(
  systems: DispatchSystems,
  { to, ...draft }: Draft & { to: string },
): Promise<Delivery> {
  const { tenantId, attemptId, patientId } = draft
  const payload = await GuardedPayload.check(systems, draft)
  const { channel, category, template } = GuardedPayload.contentOf(payload)
  const way = systems.channels(tenantId)[channel]
  if (way === undefined) {
    throw new TabibError('CONFIG_INVALID', `no ${channel} provider is configured; nothing was sent`, {
      suggestions: ['docs/configuration.md'],
    })
  }
  const record = (response: string) =>
    asTenant(systems.db, tenantId, (tx) =>
      tx.query(
        `insert into communication.dispatch_log
           (id, tenant_id, patient_id, channel, provider, recipient, request, response, category, template, template_version)
         values ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9, $10)
         on conflict (id) do update set response = excluded.response`,
        [
          ...[attemptId, tenantId, patientId, channel, to],
          JSON.stringify({ template: template.id, version: template.version }),
          ...[response, category, template.id, template.version],
        ],
      ),
    )
  try {
    const delivery = await way.send(payload, { to, attemptId })
    await record(`sent as ${delivery.providerId}`)
    return delivery
  } catch (error) {
    await record(error instanceof TabibError ? error.code : 'failed')
    throw error
  }
}
