import { importJWK, type JWK } from 'jose'
import type { Fetch } from '../../../adapters/http/client.ts'
import type { TenantProbe } from '../check.ts'
import { ask, pooled } from './ask.ts'

const AT_ONCE = 32
const ALGORITHMS: Record<string, string> = { EC: 'ES256', OKP: 'EdDSA', RSA: 'RS256' }

/** Fetches the identity provider's key set (RFC 7517) and imports its keys. */
export const jwksProbe: TenantProbe<{ fetch(tenantId: string): Fetch }> = {
  id: 'tenant/jwks-reachable',
  category: 'identity',
  severity: 'error',
  title: "the identity provider's key set answers and holds a usable key",
  run: ({ fetch }, tenants) =>
    pooled(tenants, AT_ONCE, async ({ id, tenant: { identity } }) => {
      if (identity === undefined) return { notRun: 'there is no identity provider' }
      const { jwksUri } = identity
      const flaw = await flawOf(fetch(id), jwksUri)
      if (flaw === undefined) return undefined
      return {
        message: `${jwksUri}: ${flaw}`,
        path: ['identity', 'jwksUri'],
        evidence: { jwksUri },
        fix: `curl -fsS ${jwksUri}`,
      }
    }),
}

async function flawOf(fetch: Fetch, jwksUri: string): Promise<string | undefined> {
  const answer = await ask(fetch, jwksUri, {
    headers: { accept: 'application/jwk-set+json, application/json' },
  })
  if (typeof answer === 'string') return answer
  if (answer.status !== 200) return `HTTP ${answer.status}`
  const keys = keysOf(answer.text)
  if (keys === undefined) return 'the answer is no key set'
  if (keys.some((key) => 'd' in key || 'k' in key)) return 'it publishes a private key: that key is lost'
  const usable = await Promise.all(keys.filter(({ use }) => use !== 'enc').map(isUsable))
  return usable.includes(true) ? undefined : 'none of its keys verifies signatures'
}

function keysOf(text: string): JWK[] | undefined {
  try {
    const { keys } = JSON.parse(text) as { keys?: unknown }
    const isSet = Array.isArray(keys) && keys.every((key) => typeof key === 'object' && key !== null)
    return isSet ? keys : undefined
  } catch {
    return undefined
  }
}

async function isUsable(jwk: JWK): Promise<boolean> {
  try {
    await importJWK(jwk, jwk.alg ?? ALGORITHMS[jwk.kty ?? ''])
    return jwk.kid !== undefined
  } catch {
    return false
  }
}
