import { randomUUID } from 'node:crypto'
import { allConsumed } from '../../domain/inbox/lag.ts'
import { duplicateCharges } from '../../domain/ledger/duplicates.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-08',
  kind: 'alert',
  title: 'A charge has been captured twice',
  severity: 'page',
  detect: {
    metric: 'billing_duplicate_charges',
    measure: async (app) => {
      const found = await duplicateCharges(app, {}, { certain: true })
      const charges = found
        .slice(0, 20)
        .map(({ tenant, chargeId, basis }) => `${tenant} ${chargeId} (${basis})`)
      return { value: found.length, evidence: { charges } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} charge${count === 1 ? ' repeats' : 's repeat'} one that was made before`
        : 'no event and no session is charged twice',
    entails: [],
  },
  mitigate: {
    worker: 'duplicate-reversal',
    command: ['worker', 'run', 'duplicate-reversal', '--once'],
  },
  drill: {
    // One session's end is delivered three times, which the inbox sees through. Then its producer, whose answer was lost,
    // sends it as a second event: nothing knows that id, and the patient is charged again.
    inject: async (world) => {
      const end = {
        count: 1,
        tenantId: await world.tenant(),
        aggregateType: 'session',
        type: 'ended',
        data: { sessionId: randomUUID(), patientId: randomUUID() },
      }
      const [eventId] = await world.produce('virtual-care', end)
      await world.tabib(['outbox', 'relay', '--service', 'virtual-care'])
      await world.deliverAgain('virtual-care', eventId!, 2)
      await world.produce('virtual-care', end)
      await world.tabib(['outbox', 'relay', '--service', 'virtual-care'])
      const inbox = await world.startWorkers(['inbox'])
      await allConsumed(world.app, 'charge-capture')
      return inbox
    },
    verify: async (world) => {
      const [seen] = await world.db.query<{ charges: number; debt: string; price: string; named: number }>(
        `select (select count(*)::int from billing.charge) as charges,
           (select max(amount_minor)::text from billing.charge) as price,
           (select sum(balance_minor)::text from billing.balance b join billing.account a
              on (a.tenant_id, a.id) = (b.tenant_id, b.account_id) where a.code like 'receivable:%') as debt,
           (select count(*)::int from billing.journal_transaction t join tabib.incident i on i.id = t.incident_id
            where t.reverses is not null and i.mode = 'billing/FM-08') as named`,
      )
      const { charges, debt, price, named } = seen!
      return [
        ...(charges === 2 ? [] : [`two events of one session made ${charges} charges`]),
        ...(debt === price ? [] : [`the patient owes ${debt}, and the consultation costs ${price}`]),
        ...(named === 1 ? [] : [`${named} reversals name the incident`]),
      ]
    },
  },
})
