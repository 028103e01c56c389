import { randomUUID } from 'node:crypto'
import { dispatchDue } from '../../domain/messaging/dispatch-due.ts'
import { publishTemplate } from '../../domain/messaging/publish.ts'
import { refusedFor, WAITING_TOO_LONG_S } from '../../domain/messaging/waiting.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'tabib/messages-waiting',
  kind: 'alert',
  title: 'A provider takes no messages',
  severity: 'page',
  detect: {
    metric: 'communication_message_refused_seconds',
    measure: async (app) => {
      const refused = await refusedFor(app)
      const oldestS = Math.max(0, ...refused.map((one) => one.oldestS))
      return { value: Math.round(oldestS), evidence: { refused } }
    },
    fires: { above: WAITING_TOO_LONG_S },
    says: (oldestS) =>
      oldestS > 0
        ? `a message that is to go out was first refused ${oldestS} s ago`
        : 'no message waits that was refused',
    entails: [],
  },
  mitigate: { worker: 'message-dispatch', command: ['messaging', 'retry', '--yes'] },
  drill: {
    // The gateway has been down for twenty minutes, and is back; what it refused waits for minutes more.
    inject: async (world) => {
      const providers = await world.messagingProviders()
      const { tenantId, patientId } = await world.patient()
      const template = { id: 'appointment-reminder', channel: 'sms', category: 'reminders' } as const
      const body = { body: 'Your visit is at {startsAt}.', variables: { startsAt: 'time' } } as const
      await publishTemplate(world, { ...template, ...body }, 'drill')
      const ids = [randomUUID(), randomUUID()]
      await asTenant(world.service, tenantId, (tx) =>
        tx.query(
          `insert into communication.message (id, tenant_id, patient_id, channel, template, status, variables, expires_at)
           select id, $2, $3, 'sms', $4, 'queued', '{"startsAt":"2026-12-01T09:00:00+04:30"}',
             clock_timestamp() + make_interval(hours => n::int)
           from unnest($1::uuid[], '{1,-1}'::int[]) as m (id, n)`,
          [ids, tenantId, patientId, template.id],
        ),
      )
      providers.answer(503)
      await dispatchDue(world.app, { limit: 10 })
      providers.answer(200)
      await world.db.query(
        `update communication.message set first_tried_at = first_tried_at - interval '20 minutes',
           due_at = due_at + interval '9 minutes' where status = 'queued' and first_tried_at is not null`,
      )
      return Object.assign(providers, { ids })
    },
    // What was still worth sending arrived, once; what was not did not.
    verify: async (world, fault) => {
      const { arrived, ids } = fault as unknown as Awaited<ReturnType<World['messagingProviders']>> & {
        ids: string[]
      }
      const rows = await world.db.query<{ id: string; status: string }>(
        `select id, status from communication.message where id = any($1)`,
        [ids],
      )
      const status = (n: number) => rows.find(({ id }) => id === ids[n])?.status
      return [
        ...(arrived.length === 1 ? [] : [`${arrived.length} messages arrived`]),
        ...(status(0) === 'sent' ? [] : [`the one in time is ${status(0)}`]),
        ...(status(1) === 'sent' ? ['the one that came too late was sent'] : []),
      ]
    },
  },
})
