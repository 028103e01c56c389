import { type CryptoKey, calculateJwkThumbprint, importJWK, type JWK } from 'jose'
import { type KeyStore, publicMembers, SIGNING_ALGORITHMS } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

export interface Operator {
  name: string
  /** RFC 7638 thumbprint of the public key. */
  kid: string
  addedBy: string
  addedAt: Date
}

/**
 * Registers who may approve. The same name with the same key again changes nothing.
 * @throws TabibError NOT_NEEDED when the name or the key belongs to another entry.
 */
export async function addOperator(
  { db }: { db: Queryable },
  { name, publicJwk, by }: { name: string; publicJwk: JWK & { kid: string }; by: string },
): Promise<{ added: boolean }> {
  const inserted = await db.query(
    `insert into tabib.operator (name, kid, public_jwk, added_by) values ($1, $2, $3, $4)
     on conflict do nothing returning name`,
    [name, publicJwk.kid, JSON.stringify(publicJwk), by],
  )
  if (inserted.length > 0) return { added: true }
  const known = await db.query<{ name: string; kid: string }>(
    'select name, kid from tabib.operator where name = $1 or kid = $2',
    [name, publicJwk.kid],
  )
  if (known.some((one) => one.name === name && one.kid === publicJwk.kid)) return { added: false }
  const taken = known.map((one) => `${one.name} has key ${one.kid}`).join(', ')
  throw new TabibError('NOT_NEEDED', `${name} cannot be added with key ${publicJwk.kid}: ${taken}`, {
    suggestions: ['tabib operator list'],
  })
}

export function listOperators({ db }: { db: Queryable }): Promise<Operator[]> {
  return db.query<Operator>(
    'select name, kid, added_by as "addedBy", added_at as "addedAt" from tabib.operator order by added_at, name',
  )
}

/** Which of these operators' keys a store holds, so that whoever opens it can sign as them. */
export async function operatorsIn(keyStore: KeyStore, operators: readonly Operator[]): Promise<string[]> {
  const held = await Promise.all(
    operators.map(({ kid }) =>
      keyStore.find(kid).then(
        () => true,
        () => false,
      ),
    ),
  )
  return operators.filter((_, i) => held[i]).map(({ name }) => name)
}

/** One operator's registered key, ready to verify with, and the database's clock in seconds since 1970. */
export async function findOperator(
  { db }: { db: Queryable },
  by: { name: string } | { kid: string },
): Promise<{ name: string; kid: string; publicJwk: JWK; publicKey: CryptoKey; nowS: number } | undefined> {
  const [found] = await db.query<{ name: string; kid: string; publicJwk: JWK; nowS: number }>(
    `select name, kid, public_jwk as "publicJwk", floor(extract(epoch from clock_timestamp()))::float8 as "nowS"
     from tabib.operator where name = $1 or kid = $2`,
    'name' in by ? [by.name, null] : [null, by.kid],
  )
  return found && { ...found, publicKey: (await importJWK(found.publicJwk)) as CryptoKey }
}

/**
 * A public key from a file's text, with its thumbprint as `kid`.
 * @throws TabibError USAGE when it is no public signing key; a private one is refused and not repeated.
 */
export async function parsePublicKey(text: string, file: string): Promise<JWK & { kid: string }> {
  let jwk: JWK
  try {
    jwk = JSON.parse(text)
  } catch (cause) {
    throw new TabibError('USAGE', `${file} holds no JSON`, { cause })
  }
  if (typeof jwk !== 'object' || jwk === null || 'd' in jwk || 'k' in jwk) {
    throw new TabibError('USAGE', `${file} is no public key: give the public half alone, a JWK (RFC 7517)`)
  }
  const { alg = algorithmOf(jwk) } = jwk
  try {
    if (!SIGNING_ALGORITHMS.some((known) => known === alg)) throw new Error(`algorithm ${alg}`)
    await importJWK(jwk, alg)
  } catch (cause) {
    throw new TabibError('USAGE', `${file} is no key for ${SIGNING_ALGORITHMS.join(', ')}`, { cause })
  }
  const own = publicMembers(jwk)
  return { ...own, kid: await calculateJwkThumbprint(own), alg: alg!, use: 'sig' }
}

const algorithmOf = ({ kty, crv }: JWK): string | undefined =>
  kty === 'RSA' ? 'RS256' : crv === 'P-256' ? 'ES256' : crv === 'Ed25519' ? 'EdDSA' : undefined
