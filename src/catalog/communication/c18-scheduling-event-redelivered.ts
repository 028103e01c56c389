import { randomUUID } from 'node:crypto'
import { duplicateSessions } from '../../domain/sessions/duplicate-sessions.ts'
import { scheduleSession } from '../../domain/sessions/schedule.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C18',
  kind: 'guard',
  title: 'A scheduling event delivered twice has made two sessions',
  severity: 'ticket',
  detect: {
    metric: 'communication_duplicate_sessions',
    measure: async (app) => ({ value: await duplicateSessions(app) }),
    fires: { above: 0 },
    says: (count) =>
      count > 0 ? `${count} sessions repeat an appointment` : 'no appointment has two sessions',
    entails: [],
  },
  mitigate: { command: ['status', 'communication/C18'] },
  drill: {
    // A lost acknowledgement delivers the event again; a producer that retried sends it under a second id as well.
    inject: async (world) => {
      const tenantId = randomUUID()
      const appointmentId = randomUUID()
      const eventId = randomUUID()
      await world.db.query(
        `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $2, 'Rehearsal', 'AF', 'AFN')`,
        [tenantId, `rehearsal-${tenantId}`],
      )
      for (const delivered of [eventId, eventId, randomUUID()]) {
        await world.service.transaction(async (tx) => {
          await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
          const first = await tx.query(
            `insert into communication.inbox (consumer, event_id, tenant_id) values ('rehearsal', $1, $2)
             on conflict do nothing returning event_id`,
            [delivered, tenantId],
          )
          if (first.length === 0) return
          await scheduleSession(tx, { id: delivered, tenantId, data: { appointmentId } })
        })
      }
      return {
        async [Symbol.asyncDispose]() {
          await world.owner.query('alter table communication.virtual_session no force row level security')
          await world.owner.query('delete from communication.virtual_session where appointment_id = $1', [
            appointmentId,
          ])
          await world.owner.query('alter table communication.virtual_session force row level security')
        },
      }
    },
    disarm: async (world) => {
      await world.owner.query(
        'alter table communication.virtual_session drop constraint virtual_session_once',
      )
      await world.owner.query('alter table communication.inbox drop constraint inbox_pkey')
    },
    verify: async (world) => {
      const count = await duplicateSessions(world)
      return count > 0 ? [`${count} sessions repeat an appointment`] : []
    },
  },
})
