import { beforeAll, expect, it } from 'vitest'
import { addOperator } from '../../src/domain/approval/operator.ts'
import { acceptOrder, createOrder } from '../../src/domain/erasure/order.ts'
import { PARTICIPANTS } from '../../src/domain/erasure/participants.ts'
import { drainParticipant } from '../../src/domain/erasure/perform.ts'
import { erasurePass } from '../../src/domain/erasure/saga.ts'
import { type PlantedPatient, plantPatients } from '../../src/sandbox/patients.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()
let tenantId: string

const OPERATOR = 'privacy.officer'

beforeAll(async () => {
  const { app } = world()
  const keyStore = await app.keyStore()
  const { publicJwk } = await keyStore.generate('ES256')
  await addOperator(app, { name: OPERATOR, publicJwk, by: 'test' })
  tenantId = await world().tenant()
})

const systems = () => ({
  service: world().service,
  redis: world().app.redis,
  objects: world().app.objects,
  erasureSecret: world().app.erasureSecret,
})

async function order({ tenantId, patientId }: Pick<PlantedPatient, 'tenantId' | 'patientId'>) {
  const { app } = world()
  const { context } = app.config
  const jws = await createOrder(app, { operator: OPERATOR, tenantId, subjectId: patientId, context })
  return acceptOrder({ db: app.db, secret: await app.erasureSecret() }, { order: jws, context })
}

/** Every stage once, as the workers do it. */
async function saga() {
  const { app } = world()
  for (let stage = 1; stage <= 4; stage += 1) {
    await erasurePass(app)
    for (const one of PARTICIPANTS.filter((one) => one.stage === stage)) {
      await drainParticipant(app, one, { instance: 'test' })
    }
  }
  return erasurePass(app)
}

it('erases what every store has of a patient', async () => {
  const [patient] = await plantPatients(systems(), { tenantId, count: 1 })
  const { requestId } = await order(patient!)
  await saga()
  const steps = await world().db.query(
    `select participant, s.state, attempts, reread_found, rows_affected
     from tabib.erasure_step s join tabib.erasure_ack using (request_id, participant, round) where request_id = $1
     order by stage, participant`,
    [requestId],
  )
  expect(steps.map(({ participant, rows_affected }) => [participant, rows_affected])).toEqual([
    ['virtual-care', 5n],
    ['attachments', 2n],
    ['billing', 2n],
    ['communication', 7n],
    ['dispatch-log', 2n],
    ['statements', 2n],
    ['events', 1n],
    ['cache', 3n],
  ])
  expect(steps.every(({ state, reread_found }) => state === 'done' && reread_found === 0n)).toBe(true)
})
