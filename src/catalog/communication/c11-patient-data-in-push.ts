import { randomUUID } from 'node:crypto'
import { dispatchMessage } from '../../domain/messaging/dispatch.ts'
import { publishTemplate } from '../../domain/messaging/publish.ts'
import { openLeaks } from '../../domain/messaging/watch.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C11',
  kind: 'alert',
  title: 'A message carried patient data, or would have',
  severity: 'page',
  detect: {
    metric: 'communication_patient_data_leaks',
    // What the pre-send assertion refused, and what the dispatch log shows that it did not see; until it is contained.
    measure: async (app) => {
      const { findings, attempts, categories } = await openLeaks(app)
      return { value: findings + attempts, evidence: { findings, attempts, categories } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} messages carried patient data, or would have, and nobody was told yet`
        : 'no message carries patient data',
    entails: [],
  },
  mitigate: { worker: 'phi-scan', command: ['messaging', 'scan'] },
  drill: {
    // Version 2 of a template came out together with a worker that does not ask the guard: a push with a name and a phone
    // number is on its way and in the log. Another worker asks, and is refused.
    inject: async (world) => {
      const providers = await world.messagingProviders()
      const leak = await plantLeak(world)
      const push = await fetch(`${providers.settings.push.url}/v1/projects/sandbox/messages:send`, {
        method: 'POST',
        headers: { 'idempotency-key': randomUUID() },
        body: JSON.stringify({
          message: { token: 'device', notification: { title: 'Clinic', body: leak.text } },
        }),
      })
      await asTenant(world.service, leak.tenantId, (tx) =>
        tx.query(
          `insert into communication.dispatch_log
             (tenant_id, patient_id, channel, provider, recipient, request, response, template, template_version)
           values ($1, $2, 'push', 'fcm', 'device', $3, $4, $5, 2)`,
          [leak.tenantId, leak.patientId, JSON.stringify({ body: leak.text }), String(push.status), TEMPLATE],
        ),
      )
      await send(world, leak, { startsAt: leak.text }).catch(() => {})
      return Object.assign(providers, { leak })
    },
    verify: async (world, fault) => {
      const { arrived, leak } = fault as unknown as Awaited<ReturnType<World['messagingProviders']>> & {
        leak: Leak
      }
      const before = arrived.length
      const refusals = await Promise.all(
        [1, 2].map((version) =>
          send(world, { ...leak, version }, { startsAt: '2026-12-01T09:00:00+04:30' }).then(
            () => 'sent',
            (error: { code: string }) => error.code,
          ),
        ),
      )
      const [row] = await world.db.query<{ current: number | null; incidents: number; said: string }>(
        `select (select version from communication.template where id = $1 and state = 'current') as current,
           (select count(*)::int from tabib.incident where mode = 'communication/C11' and state <> 'resolved') as incidents,
           (select coalesce(string_agg(detail::text || title, ' '), '') from tabib.incident) as said`,
        [TEMPLATE],
      )
      return [
        ...(refusals.join() === 'CATEGORY_HALTED,TEMPLATE_NOT_FOUND'
          ? []
          : [`sent again: ${refusals.join()}`]),
        ...(arrived.length === before && before === 1
          ? []
          : [`${arrived.length} messages reached the provider`]),
        ...(row!.current === 1 ? [] : [`version ${row!.current} of the template is in use`]),
        ...(row!.incidents === 1 ? [] : [`${row!.incidents} incidents are open`]),
        ...(/Zarghuna|700123456/.test(row!.said) ? ['the incident says whom it is about'] : []),
      ]
    },
  },
})

const TEMPLATE = 'appointment-reminder'

interface Leak {
  tenantId: string
  patientId: string
  text: string
  version: number
}

async function plantLeak(world: World): Promise<Leak> {
  const { tenantId, patientId } = await world.patient()
  await asTenant(world.service, tenantId, (tx) =>
    tx.query(
      `insert into communication.contact (tenant_id, person_id, push_token) values ($1, $2, 'device')`,
      [tenantId, patientId],
    ),
  )
  for (const body of ['Your visit is at {startsAt}.', 'Please come at {startsAt}.']) {
    const template = {
      id: TEMPLATE,
      channel: 'push',
      category: 'reminders',
      subject: 'Clinic',
      body,
    } as const
    await publishTemplate(world, { ...template, variables: { startsAt: 'time' } }, 'drill')
  }
  return { tenantId, patientId, text: 'Salaam Zarghuna Ahmadzai, call 0700 123 456', version: 2 }
}

const send = (world: World, { tenantId, patientId, version }: Leak, variables: Record<string, unknown>) =>
  dispatchMessage(world.app, {
    ...{ tenantId, patientId, attemptId: randomUUID(), variables },
    template: { id: TEMPLATE, version },
  })
