import { randomUUID } from 'node:crypto'
import { allConsumed } from '../../domain/inbox/lag.ts'
import { duplicateCharges } from '../../domain/ledger/duplicate-charges.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-08',
  kind: 'guard',
  title: 'One charge event has been captured twice',
  severity: 'page',
  detect: {
    metric: 'billing_duplicate_charges',
    measure: async (app) => ({ value: await duplicateCharges(app) }),
    fires: { above: 0 },
    says: (count) =>
      count > 0 ? `${count} charges repeat an event that was already charged` : 'no event is charged twice',
    entails: [],
  },
  mitigate: { worker: 'inbox', command: ['status', 'billing/FM-08'] },
  drill: {
    // One session's end is delivered three times, under message ids that JetStream cannot know for one.
    inject: async (world) => {
      const [eventId] = await world.produce('virtual-care', {
        count: 1,
        tenantId: await world.tenant(),
        aggregateType: 'session',
        type: 'ended',
        data: { sessionId: randomUUID(), patientId: randomUUID() },
      })
      await world.tabib(['outbox', 'relay', '--service', 'virtual-care'])
      await world.deliverAgain('virtual-care', eventId!, 2)
      const inbox = await world.startWorkers(['inbox'])
      await allConsumed(world.app, 'charge-capture')
      return inbox
    },
    // Every delivery looks new to the inbox.
    disarm: async (world) => {
      await world.owner.query(
        `create function billing.forget() returns trigger language plpgsql as
           'begin new.event_id := gen_random_uuid()::text; return new; end';
         create trigger forget before insert on billing.inbox for each row execute function billing.forget()`,
      )
    },
    verify: async (world) => {
      const count = await duplicateCharges(world)
      const [charged] = await world.db.query<{ n: number }>('select count(*)::int as n from billing.charge')
      if (count > 0) return [`${count} charges repeat an event`]
      return charged?.n === 1 ? [] : [`${charged?.n} charges were made for one event`]
    },
  },
})
