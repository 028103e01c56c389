import { readFile } from 'node:fs/promises'
import { type CryptoKey, calculateJwkThumbprint, importJWK, type JWK } from 'jose'
import * as z from 'zod'
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

/** @throws TabibError USAGE for what cannot be read in a list, a trail or a command line. */
export function assertOperatorName(name: string): void {
  if (/^[\p{L}\p{N}][\p{L}\p{N}\p{M}._+@:-]{0,63}$/u.test(name)) return
  const seen = JSON.stringify(name)
  throw new TabibError('USAGE', `${seen} is no operator's name: letters, digits and . _ + @ : - alone`)
}

/**
 * Registers who may approve. The same name with the same key again changes nothing.
 * @throws TabibError NOT_NEEDED when the name or the key belongs to another entry, or the key to an operator who was removed.
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
  return { added: inserted.length > 0 || !(await isRegistered({ db }, { name, kid: publicJwk.kid })) }
}

/**
 * Whether the name has this very key.
 * @throws TabibError NOT_NEEDED when the name or the key belongs to another entry, or the key to an operator who was removed.
 */
export async function isRegistered(
  { db }: { db: Queryable },
  { name, kid }: { name: string; kid: string },
): Promise<boolean> {
  const known = await db.query<{ name: string; kid: string; removed: boolean }>(
    `select name, kid, removed_at is not null as removed from tabib.operator
     where name = $1 and removed_at is null or kid = $2`,
    [name, kid],
  )
  if (known.every((one) => one.name === name && one.kid === kid && !one.removed)) return known.length > 0
  const taken = known
    .map((one) => `${one.name} ${one.removed ? 'had it and was removed' : `has key ${one.kid}`}`)
    .join(', ')
  throw new TabibError('NOT_NEEDED', `${name} cannot be added with key ${kid}: ${taken}`, {
    suggestions: ['tabib operator list'],
  })
}

export function listOperators({ db }: { db: Queryable }): Promise<Operator[]> {
  return db.query<Operator>(
    `select name, kid, added_by as "addedBy", added_at as "addedAt" from tabib.operator
     where removed_at is null order by added_at, name`,
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

/** Where operators are looked up: in the database, or without any server among keys that were read from a file. */
export type Registry = { db: Queryable } | { operators: readonly OperatorKey[] }

/** A public key and whose it is. */
export type OperatorKey = JWK & { kid: string; name: string }

/** Whose key signed something. Times are seconds since 1970, by the registry's clock. */
interface Signer {
  name: string
  kid: string
  publicJwk: JWK
  /** From when on it counts no more; null for an operator of today. */
  removedS: number | null
  nowS: number
}

/** By their name an operator of today; by a key whoever it belongs to or did: see `removalOf`. */
export async function findOperator(
  registry: Registry,
  by: { name: string } | { kid: string },
): Promise<(Signer & { publicKey: CryptoKey }) | undefined> {
  const asked: unknown = 'name' in by ? by.name : by.kid
  // Whoever wrote a token says what its key is called, and Postgres takes no NUL.
  if (typeof asked !== 'string' || asked.includes('\0')) return undefined
  const found = 'db' in registry ? await registered(registry.db, by) : listed(registry.operators, by)
  return found && { ...found, publicKey: (await importJWK(found.publicJwk)) as CryptoKey }
}

/** Why a signature that holds does not count now, or did not at `atS`; undefined where it does. */
export const removalOf = ({ name, removedS }: Signer, atS = Number.POSITIVE_INFINITY): string | undefined =>
  removedS !== null && atS >= removedS
    ? `${name} was removed from the operators at ${new Date(removedS * 1_000).toISOString()}`
    : undefined

async function registered(db: Queryable, by: { name: string } | { kid: string }) {
  const [found] = await db.query<Signer>(
    `select name, kid, public_jwk as "publicJwk", extract(epoch from removed_at)::float8 as "removedS",
       floor(extract(epoch from clock_timestamp()))::float8 as "nowS"
     from tabib.operator where name = $1 and removed_at is null or kid = $2`,
    'name' in by ? [by.name, null] : [null, by.kid],
  )
  return found
}

function listed(
  operators: readonly OperatorKey[],
  by: { name: string } | { kid: string },
): Signer | undefined {
  const found = operators.find(({ name, kid }) => ('name' in by ? name === by.name : kid === by.kid))
  if (found === undefined) return undefined
  const { name, ...publicJwk } = found
  return { name, kid: found.kid, publicJwk, removedS: null, nowS: Math.floor(Date.now() / 1_000) }
}

/** Every operator's public key and name, as a JWK Set (RFC 7517): what needs no server verifies by it. */
export async function operatorKeys({ db }: { db: Queryable }): Promise<{ keys: OperatorKey[] }> {
  const keys = await db.query<{ name: string; jwk: JWK & { kid: string } }>(
    'select name, public_jwk as jwk from tabib.operator where removed_at is null order by name',
  )
  return { keys: keys.map(({ name, jwk }) => ({ name, ...jwk })) }
}

const keySet = z.object({
  keys: z.array(z.looseObject({ kty: z.string(), kid: z.string(), name: z.string().min(1) })),
})

/**
 * What `operatorKeys` gave, from a file. Each key is taken under its own thumbprint, whatever its `kid` says.
 * @throws TabibError CONFIG_INVALID when it is none, or holds a private key.
 */
export async function readOperatorKeys(file: string): Promise<OperatorKey[]> {
  const invalid = (why: string, cause?: unknown) =>
    new TabibError('CONFIG_INVALID', `residency.operators: ${file} ${why}`, {
      cause,
      suggestions: ['tabib operator list --jwks > operators.jwks'],
    })
  const text = await readFile(file, 'utf8').catch((cause) => {
    throw invalid(`cannot be read: ${cause.code}`, cause)
  })
  try {
    const { keys } = keySet.parse(JSON.parse(text))
    if (keys.some((key) => 'd' in key || 'k' in key)) throw new Error('a private key')
    return await Promise.all(
      keys.map(async (key) => ({ ...key, kid: await calculateJwkThumbprint(publicMembers(key as JWK)) })),
    )
  } catch (cause) {
    throw invalid('is no set of operators’ public keys', cause)
  }
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
