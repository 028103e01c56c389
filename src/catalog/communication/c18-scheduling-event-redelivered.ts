import { randomUUID } from 'node:crypto'
import { allConsumed } from '../../domain/inbox/lag.ts'
import { duplicateSessions } from '../../domain/sessions/duplicate-sessions.ts'
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
  mitigate: { worker: 'inbox', command: ['status', 'communication/C18'] },
  drill: {
    // A lost acknowledgement delivers the event again; a producer that retried sends it as a second event as well.
    inject: async (world) => {
      const [eventId] = await world.produce('virtual-care', {
        count: 2,
        tenantId: await world.tenant(),
        aggregateType: 'appointment',
        type: 'scheduled',
        data: { appointmentId: randomUUID() },
      })
      await world.tabib(['outbox', 'relay', '--service', 'virtual-care'])
      await world.deliverAgain('virtual-care', eventId!, 2)
      const inbox = await world.startWorkers(['inbox'])
      await allConsumed(world.app, 'session-scheduler')
      return inbox
    },
    disarm: async (world) => {
      await world.owner.query(
        'alter table communication.virtual_session drop constraint virtual_session_once',
      )
      await world.owner.query(
        `create function communication.forget() returns trigger language plpgsql as
           'begin new.event_id := gen_random_uuid()::text; return new; end';
         create trigger forget before insert on communication.inbox for each row execute function communication.forget()`,
      )
    },
    verify: async (world) => {
      const count = await duplicateSessions(world)
      const [opened] = await world.db.query<{ n: number }>(
        'select count(*)::int as n from communication.virtual_session',
      )
      if (count > 0) return [`${count} sessions repeat an appointment`]
      return opened?.n === 1 ? [] : [`${opened?.n} sessions were opened for one appointment`]
    },
  },
})
