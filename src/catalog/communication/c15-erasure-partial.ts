import { missingAcknowledgements } from '../../domain/erasure/list.ts'
import { acceptOrder, createOrder } from '../../domain/erasure/order.ts'
import { PARTICIPANTS } from '../../domain/erasure/participants.ts'
import { ensureSteps, performStep } from '../../domain/erasure/perform.ts'
import { erasurePass } from '../../domain/erasure/saga.ts'
import { STEP_STREAM, stepDurable } from '../../domain/erasure/step.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

const MISSED = 'dispatch-log'
const PHONE = '+93700000015'

export default failureMode({
  id: 'communication/C15',
  kind: 'alert',
  title: 'An erasure request missed data in the dispatch log',
  severity: 'ticket',
  detect: {
    metric: 'communication_erasure_overdue_steps',
    measure: async (app) => {
      const { overdue, ...evidence } = await missingAcknowledgements(app)
      return { value: overdue, evidence }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} steps of erasures are not acknowledged after 15 minutes, or had something again`
        : 'every participant has acknowledged what it owes, or is about to',
    // What it plants in the dispatch log is what C11 looks for.
    entails: ['communication/C11'],
  },
  mitigate: {
    worker: 'erasure-replay',
    command: ['erasure', 'replay', '--confirm', 'erasures', '--reason', 'communication/C15'],
  },
  drill: {
    // Three patients are erased, and the stream gives up what the dispatch log was to hear; twenty minutes pass. Another
    // tenant has a patient with the very same number.
    inject: async (world) => {
      const { app } = world
      const [tenantId, otherId] = [await world.tenant(), await world.tenant()]
      const patients = await world.patients({ tenantId, count: 3, phone: () => PHONE })
      await world.patients({ tenantId: otherId, count: 1, seed: 2, phone: () => PHONE })
      await world.operator('privacy-officer')
      const secret = await app.erasureSecret()
      const { context } = app.config
      const requests: string[] = []
      for (const { patientId: subjectId } of patients) {
        const order = await createOrder(app, { operator: 'privacy-officer', tenantId, subjectId, context })
        const { requestId } = await acceptOrder(
          { db: world.db, secret },
          { order, context, authorities: app.config.erasure.authorities },
        )
        requests.push(requestId)
      }
      for (const stage of [1, 2]) {
        await erasurePass(app)
        for (const participant of PARTICIPANTS.filter((one) => one.stage === stage && one.id !== MISSED)) {
          for (const requestId of requests) {
            await performStep(app, participant, { requestId, tenantId, round: 1, instance: 'drill' })
          }
        }
      }
      await lose(world, requests.length)
      await world.db.query(
        `update tabib.erasure_step set sent_at = sent_at - interval '20 minutes',
           next_attempt_at = next_attempt_at + interval '10 minutes' where state = 'sent' and participant = $1`,
        [MISSED],
      )
      const worker = await world.startWorkers([`erasure-${MISSED}`])
      return { tenantId, otherId, [Symbol.asyncDispose]: () => worker[Symbol.asyncDispose]() }
    },
    verify: async (world, fault) => {
      const { tenantId, otherId } = fault as unknown as Erased
      const telling = (of: string) =>
        asTenant(world.service, of, async (tx) => {
          const rows = await tx.query(
            `select from communication.dispatch_log
             where coalesce(recipient, response) is not null or request <> '{}'`,
          )
          return rows.length
        })
      const [mine, theirs] = [await telling(tenantId), await telling(otherId)]
      const again = await world.db.query(
        'select from tabib.erasure_ack where participant = $1 and round > 1',
        [MISSED],
      )
      return [
        ...(mine === 0 ? [] : [`${mine} rows of the dispatch log still tell where they went`]),
        ...(theirs === 2 ? [] : [`of another tenant's 2 rows ${theirs} are whole`]),
        ...(again.length === 0 ? [] : [`${again.length} steps were done again`]),
      ]
    },
  },
})

interface Erased extends AsyncDisposable {
  tenantId: string
  otherId: string
}

/** Takes the steps that were sent off the stream, as a process does that acknowledges and dies before it works. */
async function lose(world: World, count: number): Promise<void> {
  const { nats } = world.app
  const participant = PARTICIPANTS.find(({ id }) => id === MISSED)!
  await ensureSteps({ nats }, participant)
  const durable = await nats.consumer(STEP_STREAM.name, stepDurable(MISSED))
  for await (const message of await durable.fetch({ max_messages: count, expires: 5_000 })) message.ack()
}
