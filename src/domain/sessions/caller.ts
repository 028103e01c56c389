import * as z from 'zod'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { signToken } from '../keys/sign.ts'
import type { Verifier } from '../keys/verifier.ts'
import { findTenant } from '../tenants/find.ts'

/** What makes a token one with which a service calls an API for one tenant; `aud` is whose API. */
export const SERVICE_TOKEN = { purpose: 'service-token', typ: 'service+jwt', issuer: 'tabib' } as const

/** Whose API a service token opens: who may ask for join tokens may not move money, nor the other way round. */
export type Audience = 'virtual-care' | 'billing' | 'communication'

const claimsSchema = z.object({ sub: z.string().min(1), tenant_id: z.uuid() })

/** A service that calls, and the one tenant that it calls for. */
export interface Caller {
  service: string
  tenantId: string
}

/** @throws TabibError NOT_FOUND for a tenant or key that is not there, OVERLAP_TOO_SHORT, KEY_STORE_UNREACHABLE. */
export async function issueServiceToken(
  { db, keyStore }: { db: Queryable; keyStore(): Promise<KeyStore> },
  { service, tenantId: named, audience, lifetimeS }: Caller & { audience: Audience; lifetimeS: number },
): Promise<{ token: string; kid: string; expiresAt: Date }> {
  const { id: tenantId } = await findTenant({ db }, named)
  const { purpose, typ, issuer } = SERVICE_TOKEN
  const claims = { iss: issuer, aud: audience, sub: service, tenant_id: tenantId }
  return signToken({ db, keyStore: await keyStore() }, { purpose, typ, lifetimeS, claims })
}

/** @throws TabibError TOKEN_EXPIRED, TOKEN_INVALID, KEYS_UNAVAILABLE */
export async function authenticateCaller(
  { verifier }: { verifier: Verifier },
  { token, audience }: { token: string; audience: Audience },
): Promise<Caller> {
  const { claims } = await verifier.verify(token, { ...SERVICE_TOKEN, audience })
  const said = claimsSchema.safeParse(claims).data
  if (said === undefined) {
    throw new TabibError('TOKEN_INVALID', 'the claims are not those of a service token', {
      context: { reason: 'claims' },
    })
  }
  return { service: said.sub, tenantId: said.tenant_id }
}
