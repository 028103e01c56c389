import {
  type KeyStore,
  SIGNING_ALGORITHMS,
  type SigningAlgorithm,
  type StoredKey,
} from '../../adapters/keystore/client.ts'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { announceKeys } from './announce.ts'
import { activationWaits } from './attest.ts'
import { assertHeldHere } from './held-here.ts'
import { signJws } from './jws.ts'
import { PROBE_TYPE } from './key-set.ts'
import {
  activateKey,
  assertPurpose,
  enterPhase,
  type KeyPhase,
  type KeyPolicy,
  listKeys,
  lockKeys,
  type SigningKey,
} from './phase.ts'
import { REVOCATION_TYPE } from './remember.ts'

export { SIGNING_ALGORITHMS }

/** What changing keys takes; the store is opened only when a key pair is made or destroyed. */
export interface KeySystems {
  readonly db: Database
  readonly nats: Pick<Nats, 'notify' | 'ping' | 'store' | 'messages'>
  keyStore(): Promise<KeyStore>
}

/** RFC 8725 has no figure; ours is the specification's (billing/FM-20). */
const LEAST_OVERLAP_S = 600

export const CANDIDATE: readonly KeyPhase[] = ['prepare', 'publish', 'attest']

export interface RotationAsk {
  purpose: string
  algorithm: SigningAlgorithm
  policy: KeyPolicy
  /** The key that signs now may have leaked: it never signs again once it was replaced. */
  taint?: boolean
  /** The key to replace, as a plan saw it: when another signs by now, that was done already. */
  active?: string | null
  /** The new key is made in the store here, although the purpose's last one lies in another. */
  changeStore?: boolean
}

export interface RotationPlan extends RotationAsk {
  /** The key that signs now. */
  active: string | null
  /** A key that is on its way already: the rotation under way goes on, as it was planned. */
  candidate: string | null
}

/**
 * What a rotation would do; reads only.
 * @throws TabibError OVERLAP_TOO_SHORT, USAGE for a purpose that is no name.
 */
export async function planRotation({ db }: { db: Queryable }, ask: RotationAsk): Promise<RotationPlan> {
  assertPurpose(ask.purpose)
  assertOverlap(ask.policy)
  const keys = await listKeys({ db }, ask)
  return { ...ask, active: kidIn(keys, ['activate']), candidate: kidIn(keys, CANDIDATE) }
}

/**
 * Starts a rotation, or goes on with the one under way: makes the key pair, then `advanceKeys`. Killed anywhere, the
 * same call with the same plan does the rest; only a pair that was made and not yet recorded stays in the store, unused.
 */
export async function rotateKeys(
  systems: KeySystems,
  { by, ...ask }: RotationAsk & { by: string },
): Promise<Advance & { kid: string }> {
  if (ask.taint) {
    await systems.db.query(
      `update tabib.signing_key set barred = 'tainted'
       where purpose = $1 and phase = 'activate' and ($2::text is null or kid = $2)`,
      [ask.purpose, ask.active],
    )
  }
  const kid = await prepareKey(systems, { ...ask, by })
  return { kid, ...(await advanceKeys(systems, { purpose: ask.purpose, by })) }
}

/**
 * The key that signs next: the one under way, one that has replaced `active` by now, or a new one in `prepare`.
 * @throws TabibError KEY_ELSEWHERE when a new one is wanted and the purpose's keys lie in another store.
 */
export async function prepareKey(
  { db, keyStore: openStore }: Pick<KeySystems, 'db' | 'keyStore'>,
  ask: RotationAsk & { by: string },
): Promise<string> {
  const { purpose, algorithm, policy, by } = ask
  assertPurpose(purpose)
  assertOverlap(policy)
  const next = (keys: readonly SigningKey[]) => kidIn(keys, CANDIDATE) ?? kidIn(keys, ['activate'])
  const keys = await listKeys({ db }, { purpose })
  const { active = kidIn(keys, ['activate']) } = ask
  const present = next(keys)
  if (present !== null && present !== active) return present
  const keyStore = await openStore()
  const last = (await listKeys({ db }, { purpose, ended: true })).at(-1)
  if (last && !ask.changeStore) await assertHeldHere(keyStore, last)
  const key = await generateTypable(keyStore, algorithm)
  const { kid } = key.publicJwk
  const probe = await signJws({ keyStore }, { key, typ: PROBE_TYPE, payload: { purpose, kid } })
  // Made while the key can still be used: when it is revoked, its store may be away.
  const revocation = await signJws({ keyStore }, { key, typ: REVOCATION_TYPE, payload: { purpose, kid } })
  const store = await keyStore.identity(key.ref)
  const theirs = await db.transaction(async (tx) => {
    await lockKeys(tx, purpose)
    const other = next(await listKeys({ db: tx }, { purpose }))
    if (other !== null && other !== active) return other
    await tx.query(
      `insert into tabib.signing_key (kid, purpose, algorithm, ref, store, public_jwk, probe, revocation, phase,
         overlap_s, cache_age_s, skew_s, token_lifetime_s, all_attest)
       values ($1, $2, $3, $4, $5, $6, $7, $8, 'prepare', $9, $10, $11, $12, $13)`,
      [
        kid,
        purpose,
        algorithm,
        key.ref,
        store,
        JSON.stringify(key.publicJwk),
        probe,
        revocation,
        policy.overlapS,
        policy.cacheAgeS,
        policy.skewS,
        policy.tokenLifetimeS,
        policy.allAttest,
      ],
    )
    await tx.query(
      `insert into tabib.signing_key_phase (kid, phase, entered_by) values ($1, 'prepare', $2)`,
      [kid, by],
    )
    return null
  })
  if (theirs === null) return kid
  await keyStore.destroy(key.ref)
  return theirs
}

/** A key whose id can be typed: one in 64 begins with a hyphen, and a command line takes that for a flag. */
async function generateTypable(keyStore: KeyStore, algorithm: SigningAlgorithm): Promise<StoredKey> {
  for (let left = 10; ; left--) {
    const key = await keyStore.generate(algorithm)
    if (!key.publicJwk.kid.startsWith('-') || left === 0) return key
    await keyStore.destroy(key.ref)
  }
}

export interface Advance {
  /** Phases entered, in order. */
  moved: { kid: string; phase: KeyPhase }[]
  /** What the rotation under way waits for. */
  waits: string[]
  announced: boolean
  /** Private halves that were to be destroyed and are not, each with why, in words. */
  undestroyed: string[]
}

/** Moves a purpose's keys as far as their conditions hold. Each step is one transaction; any may be the last. */
export async function advanceKeys(
  systems: KeySystems,
  { purpose, by }: { purpose: string; by: string },
): Promise<Advance> {
  const { db } = systems
  const moved: Advance['moved'] = []
  const enter = async (kid: string, from: KeyPhase, to: KeyPhase) => {
    if (await enterPhase(db, { kid, from: [from], to, by })) moved.push({ kid, phase: to })
  }
  const find = async (phase: KeyPhase) =>
    (await listKeys({ db }, { purpose })).filter((key) => key.phase === phase)

  for (const { kid } of await find('prepare')) await enter(kid, 'prepare', 'publish')
  const announced = moved.length === 0 || (await announceKeys(systems, { purpose })).announced
  for (const { kid } of await find('publish')) await enter(kid, 'publish', 'attest')

  const waits: string[] = []
  for (const key of await find('attest')) {
    const { kid } = key
    // The first key of a purpose has no predecessor whose tokens or caches could be harmed.
    if ((await find('activate')).length > 0) waits.push(...(await activationWaits(db, key)))
    if (waits.length > 0) break
    if (await db.transaction((tx) => activateKey(tx, { kid, purpose, from: ['attest'], by })))
      moved.push({ kid, phase: 'activate' })
  }

  const [active] = await find('activate')
  for (const key of await find('drain')) {
    if (active && drainLeftS(key, active) <= 0) await enter(key.kid, 'drain', 'retire')
  }
  return { moved, waits, announced, undestroyed: await destroyEnded(systems, { purpose }) }
}

/** Seconds until a draining key may be retired: its last token has expired, and the overlap is over. */
export function drainLeftS(key: SigningKey, active: SigningKey): number {
  return Math.ceil(
    Math.max(key.tokenLifetimeS + key.skewS - key.sinceS, active.overlapS - (active.publishedS ?? 0)),
  )
}

/**
 * Destroys the private halves of retired and revoked keys. One that lies in another store, or whose store is away, is
 * left for whoever comes next.
 * @returns why, for each that is left.
 */
export async function destroyEnded(
  { db, keyStore: openStore }: Pick<KeySystems, 'db' | 'keyStore'>,
  { purpose }: { purpose: string },
): Promise<string[]> {
  const ended = await db.query<{ kid: string; ref: string; store: string | null }>(
    `select kid, ref, store from tabib.signing_key
     where purpose = $1 and phase in ('retire', 'revoked') and destroyed_at is null`,
    [purpose],
  )
  const left: string[] = []
  for (const { kid, ...key } of ended) {
    try {
      const keyStore = await openStore()
      await assertHeldHere(keyStore, key)
      await keyStore.destroy(key.ref)
    } catch (error) {
      if (!(error instanceof TabibError)) throw error
      left.push(`the private half of ${kid} was not destroyed: ${error.message}`)
      // The others would wait as long for a store that is away.
      if (error.code === 'KEY_STORE_UNREACHABLE') break
      continue
    }
    await db.query('update tabib.signing_key set destroyed_at = clock_timestamp() where kid = $1', [kid])
  }
  return left
}

/** @throws TabibError OVERLAP_TOO_SHORT with the sum that the overlap must cover. */
export function assertOverlap({ overlapS, cacheAgeS, skewS, tokenLifetimeS }: KeyPolicy): void {
  const neededS = Math.max(LEAST_OVERLAP_S, cacheAgeS + skewS + tokenLifetimeS)
  if (overlapS >= neededS) return
  throw new TabibError(
    'OVERLAP_TOO_SHORT',
    `an overlap of ${overlapS} s does not cover a rotation: verifiers may keep a key set for ${cacheAgeS} s, clocks differ by ${skewS} s, and a token lives ${tokenLifetimeS} s; at least ${neededS} s are needed`,
    {
      suggestions: [`the same command with --overlap ${neededS}s, or with a shorter --token-lifetime`],
      ref: 'runbooks/billing/fm-20-jwks-not-refreshed.md',
      context: { overlapS, neededS },
    },
  )
}

export const kidIn = (keys: readonly SigningKey[], phases: readonly KeyPhase[]): string | null =>
  keys.find(({ phase }) => phases.includes(phase))?.kid ?? null
