import { compactVerify } from 'jose'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import { TabibError } from '../../errors.ts'
import { signJws } from '../keys/jws.ts'
import { findOperator, type Registry } from './operator.ts'

/** Keeps the proof of who acts from passing for an approval, and the other way round (RFC 8725 section 3.11). */
const PROOF_TYPE = 'tabib-operation+jws'

/**
 * Signs as a registered operator, with the key in their own store, and holds the signature against the public half that
 * is registered for them.
 * @throws TabibError OPERATOR_UNPROVED when they are not registered, or the store lacks their key or has another.
 */
export async function signAsOperator(
  { keyStore: openStore, ...registry }: Registry & { keyStore(): Promise<KeyStore> },
  {
    operator,
    typ,
    claims,
  }: { operator: string; typ: string; claims: (nowS: number) => Record<string, unknown> },
): Promise<string> {
  const known = await findOperator(registry, { name: operator })
  if (known === undefined) {
    throw unproved(`${operator} is no registered operator`, [
      'tabib operator list',
      `tabib operator add ${operator}`,
      'export TABIB_ACTOR=<your name in that list>',
    ])
  }
  const why = `the key store that is configured here cannot sign as ${operator}`
  const keyStore = await openStore().catch((error) => {
    throw error instanceof TabibError && error.code === 'CONFIG_INVALID' ? unproved(why, HOW, error) : error
  })
  try {
    const key = await keyStore.find(known.kid)
    const jws = await signJws({ keyStore }, { key, typ, payload: { iss: operator, ...claims(known.nowS) } })
    await compactVerify(jws, known.publicKey, { algorithms: [key.algorithm] })
    return jws
  } catch (error) {
    if (error instanceof TabibError && error.code !== 'NOT_FOUND') throw error
    throw unproved(`${why}: it does not hold key ${known.kid}`, HOW, error)
  }
}

/**
 * Proves who acts: a JWS (RFC 7515) by the operator's registered key over the plan and this very run, for the trail.
 * @throws TabibError OPERATOR_UNPROVED, KEY_STORE_UNREACHABLE, NOT_AUTHORISED
 */
export function proveActor(
  systems: Registry & { keyStore(): Promise<KeyStore> },
  { actor, planHash, context, runId }: { actor: string; planHash: string; context: string; runId: string },
): Promise<string> {
  return signAsOperator(systems, {
    operator: actor,
    typ: PROOF_TYPE,
    claims: (iat) => ({ planHash, context, runId, iat }),
  })
}

const HOW = [
  'export TABIB_OPERATOR_KEY_STORE=<the store that holds your own key>',
  'export TABIB_OPERATOR_KEY_STORE_SECRET_FILE=<what opens it>',
  'tabib operator list',
]

const unproved = (why: string, suggestions: string[], cause?: unknown) =>
  new TabibError('OPERATOR_UNPROVED', `who acts here is not proved: ${why}`, { suggestions, cause })
