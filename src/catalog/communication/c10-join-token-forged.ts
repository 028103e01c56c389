import { acceptedUnder } from '../../domain/sessions/evict.ts'
import { forgedJoins, leakedKeys } from '../../domain/sessions/join-failures.ts'
import { signJoinToken } from '../../domain/sessions/join-token.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C10',
  kind: 'alert',
  title: 'Join tokens fail verification at a rate that suggests forgery',
  severity: 'page',
  detect: {
    metric: 'communication_join_token_forged_per_minute',
    measure: async (app) => {
      const [{ perMinute, byReason }, leaked] = await Promise.all([forgedJoins(app), leakedKeys(app)])
      return { value: perMinute, evidence: { ...byReason, 'keys that leaked': leaked } }
    },
    fires: { above: 10 },
    says: (rate) => `${rate} join tokens a minute are refused as forged, over the last five minutes`,
    entails: [],
  },
  mitigate: {
    command: [
      ...['keys', 'revoke', '--leaked', '--confirm', 'join-token'],
      ...['--reason', 'join tokens are forged'],
    ],
  },
  drill: {
    // Somebody signs with the leaked key while two participants come in with tokens that were issued.
    inject: async (world) => {
      const visit = await world.visit()
      const api = await world.startApi()
      for (const participantId of visit.participantIds) {
        const { body } = await api.ask(visit, participantId)
        await api.join(visit, body.token!)
      }
      const { tenantId, sessionId, participantIds } = visit
      for (let n = 0; n < 60; n += 1) {
        const { token } = await signJoinToken(world.app, {
          tenantId,
          sessionId,
          participantId: participantIds[n % 2]!,
        })
        await api.join(visit, token)
      }
      return api
    },
    verify: async (world) => {
      const [key] = await world.db.query<{ kid: string }>(`select kid from tabib.key_revocation`)
      if (key === undefined) return ['no key was revoked']
      const accepted = await acceptedUnder(world, key)
      const [left] = await world.db.query<{ open: number; evicted: number }>(
        `select (select count(*)::int from virtual_care.join_token where kid = $1 and revoked_at is null) as open,
                (select count(*)::int from virtual_care.outbox where type = 'evicted') as evicted`,
        [key.kid],
      )
      return [
        ...(accepted.length === 2
          ? []
          : [`${accepted.length} acceptances are on the list, and 2 people came in`]),
        ...(left?.open === 0 ? [] : [`${left?.open} tokens of the revoked key are still good`]),
        ...(left?.evicted === 1 ? [] : [`${left?.evicted} sessions were told to put everybody out`]),
      ]
    },
  },
})
