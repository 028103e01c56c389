import { acceptOrder, createOrder } from '../../domain/erasure/order.ts'
import { PARTICIPANTS } from '../../domain/erasure/participants.ts'
import { performStep } from '../../domain/erasure/perform.ts'
import { ERASURE_STREAM, rememberErasures } from '../../domain/erasure/remember.ts'
import { openRestoreGuard } from '../../domain/erasure/restore-guard.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'tabib/database-restored',
  kind: 'guard',
  title: 'A restored database has brought back whom it had erased',
  severity: 'page',
  detect: {
    metric: 'tabib_erasures_missing',
    measure: async (app) => {
      const state = await openRestoreGuard(app).state()
      if (state.kind === 'applied') return { value: 0 }
      return { value: state.kind === 'missing' ? 1 : undefined, evidence: { why: state.why } }
    },
    fires: { above: 0 },
    says: (value) =>
      value > 0
        ? 'the database lacks entries of the list of erasures, and takes no traffic'
        : 'the database has all that the list of erasures says',
    entails: [],
  },
  mitigate: { command: ['erasure', 'reapply', '--dry-run'] },
  drill: {
    // A patient is erased, and the backup of before restored over it.
    inject: async (world, guarded) => {
      const { app } = world
      const { tenantId, patientId } = await world.patient()
      await world.operator('privacy-officer')
      const restore = await world.backup()
      const { context, erasure } = app.config
      const order = await createOrder(app, {
        operator: 'privacy-officer',
        tenantId,
        subjectId: patientId,
        context,
      })
      const { requestId } = await acceptOrder(
        { db: app.db, secret: await app.erasureSecret() },
        { order, context, authorities: erasure.authorities },
      )
      for (const participant of PARTICIPANTS) {
        await performStep(app, participant, { requestId, tenantId, round: 1, instance: 'drill' })
      }
      await rememberErasures(app)
      await restore()
      // Without the list outside of the database nobody knows that anybody is missing.
      if (!guarded) await app.nats.deleteStream(ERASURE_STREAM.name)
      return { tenantId, patientId, async [Symbol.asyncDispose]() {} }
    },
    alarms: true,
    verify: async (world, fault) => {
      const { tenantId, patientId } = fault as unknown as { tenantId: string; patientId: string }
      const isApplied = async () => (await openRestoreGuard(world.app).state()).kind === 'applied'
      if (await isApplied()) return ['traffic is let in, and nobody knows that a patient was erased']
      const database = world.env.TABIB_DATABASE_URL!.split('/').at(-1)!
      const { exitCode } = await world.tabib([
        ...['erasure', 'reapply', '--confirm', database, '--reason', 'restored'],
      ])
      const left = await asTenant(world.service, tenantId, (tx) =>
        tx.query('select from virtual_care.patient where id = $1', [patientId]),
      )
      return [
        ...(exitCode === 0 ? [] : [`reapply exited ${exitCode}`]),
        ...((await isApplied()) ? [] : ['no traffic is let in afterwards']),
        ...(left.length === 0 ? [] : ['the patient is in the database']),
      ]
    },
  },
})
