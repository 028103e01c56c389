import { createHash, randomUUID } from 'node:crypto'
import { compactVerify, decodeProtectedHeader } from 'jose'
import * as z from 'zod'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import { SIGNING_ALGORITHMS } from '../../adapters/keystore/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { findOperator, type Registry, removalOf } from '../approval/operator.ts'
import { signAsOperator } from '../approval/prove.ts'
import { type OpenedRequest, openRequest } from './request.ts'
import type { ErasureSecret } from './secret.ts'

/** Keeps an order from passing for another kind of token (RFC 8725 section 3.11). */
const ORDER_TYPE = 'tabib-erasure-order+jws'
/** The longest that an order may be good for, in seconds. */
const LONGEST_LIFETIME_S = 86_400

const claimsSchema = z.object({
  jti: z.uuid(),
  iss: z.string().min(1),
  tenantId: z.uuid(),
  subjectId: z.uuid(),
  context: z.string(),
  iat: z.number().min(0).max(8.64e12),
  exp: z.number().min(0).max(8.64e12),
})
export type OrderClaims = z.output<typeof claimsSchema>

/**
 * Signs the order to erase one patient of one tenant, with the key that is registered for whoever orders it.
 * @throws TabibError OPERATOR_UNPROVED when they are not registered, or the store lacks their key.
 */
export function createOrder(
  systems: Registry & { keyStore(): Promise<KeyStore> },
  {
    operator,
    tenantId,
    subjectId,
    context,
    lifetimeS = 600,
  }: {
    operator: string
    tenantId: string
    subjectId: string
    context: string
    lifetimeS?: number
  },
): Promise<string> {
  return signAsOperator(systems, {
    operator,
    typ: ORDER_TYPE,
    claims: (iat) => ({ jti: randomUUID(), tenantId, subjectId, context, iat, exp: iat + lifetimeS }),
  })
}

/** By what an order is known once it is accepted: hex. An approval of an order is for this. */
export const orderDigest = (order: string): string => createHash('sha256').update(order.trim()).digest('hex')

/** What an order is judged by. */
export interface OrderRules {
  /** Where it is handed in. */
  context: string
  /** Names of the registered operators who may order: nobody else, and nobody where there are none. */
  authorities: readonly string[]
}

/**
 * What an order says that holds: signed by a registered operator who may order erasures, for this context, within its time.
 * @throws TabibError ERASURE_ORDER_INVALID, saying which of these does not hold.
 */
export async function verifyOrder(
  registry: Registry,
  { order, context, authorities }: { order: string } & OrderRules,
): Promise<OrderClaims> {
  const signer = await findOperator(registry, { kid: keyIdOf(order) })
  if (signer === undefined) throw invalid('no registered operator has the key that signed it')
  const { payload, protectedHeader } = await compactVerify(order.trim(), signer.publicKey, {
    algorithms: [...SIGNING_ALGORITHMS],
  }).catch((cause) => {
    throw invalid('its signature does not hold', cause)
  })
  if (protectedHeader.typ !== ORDER_TYPE) throw invalid(`it is a "${protectedHeader.typ}"`)
  const parsed = claimsSchema.safeParse(parseJson(payload))
  if (!parsed.success) throw invalid('its claims are not those of an order', parsed.error)
  const claims = parsed.data
  if (claims.iss !== signer.name) throw invalid(`it names ${claims.iss}, and ${signer.name} signed it`)
  const removal = removalOf(signer)
  if (removal !== undefined) throw invalid(removal)
  assertAuthority(claims.iss, authorities)
  if (claims.context !== context) {
    throw invalid(`it is for the context "${claims.context}", and this is "${context}"`)
  }
  if (signer.nowS >= claims.exp) {
    throw invalid(`its time ended at ${new Date(claims.exp * 1_000).toISOString()}`)
  }
  if (claims.exp - Math.min(claims.iat, signer.nowS) > LONGEST_LIFETIME_S) {
    throw invalid(
      `it would be good until ${new Date(claims.exp * 1_000).toISOString()}, and a day is the longest`,
    )
  }
  return { ...claims, tenantId: claims.tenantId.toLowerCase(), subjectId: claims.subjectId.toLowerCase() }
}

/** @throws TabibError ERASURE_ORDER_INVALID for whoever is not among the authorities. */
export function assertAuthority(name: string, authorities: readonly string[]): void {
  if (authorities.includes(name)) return
  const known =
    authorities.length > 0 ? authorities.join(', ') : 'nobody: erasure.authorities is not configured'
  throw invalid(`${name} may not order erasures; who may: ${known}`, undefined, [
    'erasure: { authorities: [<registered operator>] }   # in tabib.yaml: docs/erasure.md#orders',
  ])
}

/**
 * Takes an order: opens the request for it, once. The saga does the rest.
 *
 * @throws TabibError ERASURE_ORDER_INVALID for one that is forged, of somebody unknown, too old or used before; NOT_FOUND
 * when the tenant has no such patient, NOT_NEEDED when their erasure is under way.
 */
export async function acceptOrder(
  { db, secret }: { db: Database; secret: ErasureSecret },
  { order, ...rules }: { order: string } & OrderRules,
): Promise<OpenedRequest> {
  const { jti, iss, tenantId, subjectId } = await verifyOrder({ db }, { order, ...rules })
  const opened = await openRequest(
    { db, secret },
    { tenantId, subjectId, authority: iss, order: { jti, digest: orderDigest(order) } },
  )
  if (opened === 'used') throw invalid('it was used before')
  return opened
}

function keyIdOf(order: string): string {
  try {
    return decodeProtectedHeader(order.trim()).kid ?? ''
  } catch (cause) {
    throw invalid('it is no JWS', cause)
  }
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    return undefined
  }
}

const invalid = (why: string, cause?: unknown, help: string[] = []) =>
  new TabibError('ERASURE_ORDER_INVALID', `the order to erase is refused: ${why}`, {
    suggestions: [...help, 'tabib operator list', 'tabib erasure request --help'],
    cause,
  })
