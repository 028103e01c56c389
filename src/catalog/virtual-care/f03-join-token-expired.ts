import { joinedAfterExpiry } from '../../domain/sessions/join-failures.ts'
import { signJoinToken } from '../../domain/sessions/join-token.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'virtual-care/F03',
  kind: 'guard',
  title: 'A join token is used after it expired',
  severity: 'info',
  detect: {
    metric: 'vcare_join_tokens_accepted_after_expiry',
    measure: async (app) => ({ value: await joinedAfterExpiry(app) }),
    fires: { above: 0 },
    says: (count) =>
      count > 0 ? `${count} expired join tokens opened a session` : 'no expired join token opened a session',
    entails: [],
  },
  mitigate: { command: ['status', 'virtual-care/F03'] },
  drill: {
    // By the clock of the host that verifies, the token is good; by the database's its time has passed.
    inject: async (world) => {
      const visit = await world.visit()
      const api = await world.startApi()
      const late = await expiredToken(world, visit)
      const { body } = await api.join(visit, late)
      // The participant does what the refusal says.
      if (body.code === 'TOKEN_EXPIRED' && body.refresh?.href.endsWith('/join-token')) {
        const { body: again } = await api.ask(visit)
        await api.join(visit, again.token!)
      }
      return api
    },
    disarm: async (world) => {
      await world.owner.query('alter table virtual_care.join_token drop constraint join_token_in_time')
    },
    verify: async (world) => {
      const late = await joinedAfterExpiry(world)
      if (late > 0) return [`${late} expired tokens opened a session`]
      const [joined] = await world.db.query<{ n: number }>(
        'select count(*)::int as n from virtual_care.join_token where acceptances > 0',
      )
      return joined?.n === 1 ? [] : ['the participant did not get in with another token']
    },
  },
})

async function expiredToken(
  { app, service }: World,
  { tenantId, sessionId, participantIds: [participantId] }: Awaited<ReturnType<World['visit']>>,
): Promise<string> {
  const { jti, token, kid } = await signJoinToken(app, { tenantId, sessionId, participantId })
  await asTenant(service, tenantId, (tx) =>
    tx.query(
      `insert into virtual_care.join_token (jti, tenant_id, session_id, participant_id, kid, expires_at)
       values ($1, $2, $3, $4, $5, clock_timestamp() - interval '1 s')`,
      [jti, tenantId, sessionId, participantId, kid],
    ),
  )
  return token
}
