import { joinTokenSigning } from '../../domain/sessions/join-failures.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'virtual-care/F13',
  kind: 'alert',
  title: 'The KMS is unavailable and join tokens cannot be signed',
  severity: 'page',
  detect: {
    metric: 'vcare_join_token_signable',
    measure: async (app) => {
      const { signable, why, unsigned } = await joinTokenSigning(app)
      return {
        value: signable === undefined ? undefined : Number(signable),
        evidence: { why, 'refused in 5 min': unsigned },
      }
    },
    fires: { below: 1 },
    says: (signable) =>
      signable < 1
        ? 'no join token can be signed: participants without one cannot join'
        : 'join tokens can be signed',
    entails: [],
  },
  // No cache is waited for: while nothing can be signed, there is no token that an old one could refuse.
  mitigate: {
    command: [
      ...['keys', 'rotate', '--purpose', 'join-token', '--cache-age', '0s', '--skew', '0s'],
      ...['--change-store', '--wait', '--yes'],
    ],
  },
  drill: {
    // The region's KMS hangs up on every call while people ask for tokens.
    inject: async (world) => {
      const visit = await world.visit()
      const api = await world.startApi()
      await api.ask(visit)
      world.kms?.misbehave('drop')
      await api.ask(visit)
      return api
    },
    // Another region answers in its place, and has none of the keys: they never leave the region they were made in.
    relent: async (world) => world.kms?.failOver(),
    verify: async (world) => {
      const [visit] = await world.db.query<{ status: string; version: number; pages: number }>(
        `select status, version, (select count(*)::int from tabib.incident
           where mode = 'virtual-care/F13' and severity = 'page') as pages
         from virtual_care.session`,
      )
      return [
        ...(visit?.status === 'active' && visit.version === 1 ? [] : ['the session did not stay as it was']),
        ...(visit?.pages === 1 ? [] : [`people were paged ${visit?.pages} times`]),
      ]
    },
    needs: { kms: true },
  },
})
