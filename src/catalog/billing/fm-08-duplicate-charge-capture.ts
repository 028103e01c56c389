import { randomUUID } from 'node:crypto'
import { captureCharge } from '../../domain/ledger/capture-charge.ts'
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
  mitigate: { command: ['status', 'billing/FM-08'] },
  drill: {
    // One event delivered three times, to a consumer that keeps the inbox's contract (docs/outbox.md).
    inject: async (world) => {
      const tenantId = randomUUID()
      const eventId = randomUUID()
      await world.db.query(
        `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $2, 'Rehearsal', 'AF', 'AFN')`,
        [tenantId, `rehearsal-${tenantId}`],
      )
      for (let delivery = 1; delivery <= 3; delivery++) {
        await world.service.transaction(async (tx) => {
          await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
          const first = await tx.query(
            `insert into billing.inbox (consumer, event_id, tenant_id) values ('rehearsal', $1, $2)
             on conflict do nothing returning event_id`,
            [eventId, tenantId],
          )
          if (first.length === 0) return
          const data = { sessionId: randomUUID(), patientId: randomUUID() }
          await captureCharge(tx, { id: eventId, tenantId, data })
        })
      }
      return {
        async [Symbol.asyncDispose]() {
          await world.owner.query('alter table billing.charge no force row level security')
          await world.owner.query('delete from billing.charge where event_id = $1', [eventId])
          await world.owner.query('alter table billing.charge force row level security')
        },
      }
    },
    disarm: async (world) => {
      await world.owner.query('alter table billing.inbox drop constraint inbox_pkey')
    },
    verify: async (world) => {
      const count = await duplicateCharges(world)
      return count > 0 ? [`${count} charges repeat an event`] : []
    },
  },
})
