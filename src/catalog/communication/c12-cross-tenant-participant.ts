import { addParticipant } from '../../domain/messaging/add-participant.ts'
import { foreignParticipants } from '../../domain/messaging/foreign-participants.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C12',
  kind: 'guard',
  title: 'A participant of another tenant was added to a thread',
  severity: 'page',
  detect: {
    metric: 'communication_foreign_participants',
    measure: async (app) => {
      const { refused, present, tenants } = await foreignParticipants(app)
      return { value: refused + present, evidence: { refused, present, tenants: tenants.slice(0, 20) } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} participants of another tenant were refused in 15 minutes, or are in a thread`
        : 'nobody was added to a thread of another tenant',
    entails: [],
  },
  mitigate: { command: ['isolation', 'check', '--schema', 'communication'] },
  drill: {
    // A client of one tenant sends the id of another's contact; then the application forgets to look.
    inject: async (world) => {
      const [mine, theirs] = [await world.tenant(), await world.tenant()]
      const inTenant = (tenantId: string, sql: string, values: unknown[]) =>
        asTenant(world.service, tenantId, (tx) => tx.query<{ id: string }>(sql, values))
      const [thread] = await inTenant(
        mine,
        'insert into communication.thread (tenant_id) values ($1) returning id',
        [mine],
      )
      const [contact] = await inTenant(
        theirs,
        'insert into communication.contact (tenant_id, person_id) values ($1, gen_random_uuid()) returning id',
        [theirs],
      )
      await addParticipant(world, { tenantId: mine, threadId: thread!.id, contactId: contact!.id }).catch(
        () => {},
      )
      await inTenant(
        mine,
        'insert into communication.thread_participant (tenant_id, thread_id, contact_id) values ($1, $2, $3)',
        [mine, thread!.id, contact!.id],
      ).catch(() => {})
      return { async [Symbol.asyncDispose]() {} }
    },
    alarms: true,
    disarm: async (world) => {
      await world.owner.query(
        'alter table communication.thread_participant drop constraint participant_contact',
      )
    },
    verify: async (world) => {
      const { present } = await foreignParticipants(world)
      return present === 0 ? [] : [`${present} participants of another tenant are in a thread`]
    },
  },
})
