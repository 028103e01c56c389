import type { TenantCheck } from '../check.ts'

const PROVIDER = {
  issuer: 'https://<host>',
  jwksUri: 'https://<host>/jwks',
  admins: [{ user: '<user id>', mfa: 'webauthn' }],
}

/** Who comes in, and how they prove it. */
export const identityChecks: TenantCheck[] = [
  {
    id: 'tenant/identity-provider',
    category: 'identity',
    severity: 'error',
    title: 'the identity provider is set, over TLS',
    run: ({ identity }) => {
      if (!identity) {
        return [{ message: 'there is no identity provider', path: ['identity'], fix: { set: PROVIDER } }]
      }
      return (['issuer', 'jwksUri'] as const)
        .filter((name) => !identity[name].startsWith('https:'))
        .map((name) => ({
          message: `${name} is fetched without TLS`,
          path: ['identity', name],
          about: name,
          evidence: { url: identity[name] },
          fix: { set: identity[name].replace(/^http:/, 'https:') },
        }))
    },
  },
  {
    id: 'tenant/admin-mfa',
    category: 'identity',
    severity: 'critical',
    title: 'there is an administrator, and none without a second factor',
    run: ({ identity }) => {
      const admins = identity?.admins ?? []
      if (admins.length === 0) {
        const fix = identity ? { add: PROVIDER.admins[0] } : { set: PROVIDER, at: ['identity'] }
        return [{ message: 'there is no administrator', path: ['identity', 'admins'], fix }]
      }
      return admins.flatMap(({ user, mfa }, i) =>
        mfa !== 'none'
          ? []
          : [
              {
                message: `administrator ${user} has no second factor`,
                path: ['identity', 'admins', i, 'mfa'],
                about: user,
                evidence: { user },
                fix: { set: 'webauthn', note: 'once it is enrolled' },
              },
            ],
      )
    },
  },
]
