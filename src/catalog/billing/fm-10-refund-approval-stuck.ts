import { randomUUID } from 'node:crypto'
import { decideRefund, requestRefund } from '../../domain/payments/refund.ts'
import { REFUNDS_LIMIT, refundCounts } from '../../domain/payments/refund-queue.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

const REFUNDS = 60

interface Called extends AsyncDisposable {
  phone: Awaited<ReturnType<World['onCall']>>
}

export default failureMode({
  id: 'billing/FM-10',
  kind: 'alert',
  title: 'Refunds wait for their approval for more than 24 hours',
  severity: 'page',
  detect: {
    // billing_refunds_requested_total - billing_refunds_approved_total, at its lowest in the last 24 hours.
    metric: 'billing_refunds_undecided_24h',
    measure: async (app) => {
      const { undecided24h, ...totals } = await refundCounts(app)
      return { value: undecided24h, evidence: totals }
    },
    fires: { above: REFUNDS_LIMIT },
    says: (count) =>
      count === 0
        ? 'no refund was undecided through all of the last 24 hours'
        : `at any time of the last 24 hours at least ${count} refunds were undecided`,
    entails: [],
  },
  mitigate: { worker: 'refund-watch', command: ['refunds', 'escalate', '--yes'] },
  drill: {
    // Yesterday's refunds lie there. The clinician and the supervisors have phones: who is paged decides what is theirs.
    inject: async (world) => {
      const tenantId = await world.tenant()
      const [clinician, supervisor] = ['u-clinician', 'u-supervisor']
      await world.db.query(
        `insert into tabib.tenant_profile (tenant_id, document) values ($1, $2)
         on conflict (tenant_id) do update set document = excluded.document`,
        [tenantId, JSON.stringify({ refunds: { approvers: [supervisor] } })],
      )
      await asTenant(world.service, tenantId, async (tx) => {
        for (let n = 0; n < REFUNDS; n += 1) {
          await requestRefund(tx, {
            tenantId,
            patientId: randomUUID(),
            amountMinor: 50_000n,
            currency: 'AFN',
            requestedBy: n % 3 === 0 ? clinician : 'u-cashier',
            clinician,
          })
        }
        await tx.query(`update billing.refund set requested_at = requested_at - interval '25 hours'`)
      })
      const phone = await world.onCall(({ notify: [by = ''] }) =>
        asTenant(world.service, tenantId, async (tx) => {
          const theirs = await tx.query<{ id: string }>(
            `select id from billing.refund where (requested_by = clinician) = ($1 = $2)`,
            [by, supervisor],
          )
          if (by === 'ops') return
          for (const { id } of theirs) await decideRefund(tx, { tenantId, refundId: id, by, approve: true })
        }),
      )
      const pager = await world.startWorkers(['pager'])
      return { phone, [Symbol.asyncDispose]: () => pager[Symbol.asyncDispose]() }
    },
    verify: async (world, fault) => {
      const called = (fault as unknown as Called).phone.pages.map(({ notify }) => notify.join()).sort()
      const [posted] = await world.db.query<{ owed: bigint; approved: number }>(
        `select (select coalesce(sum(-balance_minor), 0)::bigint from billing.balance
                 join billing.account on (account.tenant_id, account.id) = (balance.tenant_id, account_id)
                 where code = 'refunds-payable') as owed,
           (select count(*)::int from billing.refund where state = 'approved' and decided_by <> requested_by) as approved`,
      )
      return [
        ...(called.join() === 'ops,u-clinician,u-supervisor' ? [] : [`called: ${called.join(', ')}`]),
        ...(posted!.approved === REFUNDS ? [] : [`${posted!.approved} of ${REFUNDS} refunds are approved`]),
        ...(posted!.owed === 50_000n * BigInt(REFUNDS) ? [] : [`${posted!.owed} are owed to patients`]),
      ]
    },
  },
})
