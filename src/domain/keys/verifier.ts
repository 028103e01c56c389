import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { compactVerify, decodeProtectedHeader, errors, importJWK, type JWTPayload, jwtVerify } from 'jose'
import * as z from 'zod'
import type { Fetch } from '../../adapters/http/client.ts'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { type Announcement, announcementSubject } from './announce.ts'
import { attestKeys, type VerifierReport } from './attest.ts'
import type { KeptKeys } from './kept-keys.ts'
import { jwksHash, type KeySet, keySetSchema, PROBE_TYPE } from './key-set.ts'

export interface VerifierOptions {
  purpose: string
  /** Where the key set comes from: `keySetAt(url)`, or `publishedKeys` with a database at hand. */
  load: (signal: AbortSignal) => Promise<KeySet>
  /** Says what this replica holds and how it fares; without it a rotation waits for the cache age instead. */
  attest?: {
    db: Queryable
    /** Names the replica, and stays the same when it is started again in its place: the pod's or host's name. */
    instance: string
  }
  /** Hears of changes and revocations at once; without it, within `reloadEveryMs`. */
  nats?: Pick<Nats, 'listen'>
  /** How often the key set is loaded in the background. */
  reloadEveryMs?: number
  /** Where the last good keys outlive this process, for one that starts while none can be loaded. */
  kept?: KeptKeys | undefined
  /** For how long the last good keys are used while none can be loaded; afterwards nothing is accepted. */
  hardLimitMs?: number
}

export interface VerifyOptions {
  /** The `typ` that tokens of this kind have; no other passes. */
  typ: string
  issuer?: string
  audience?: string
}

/** Verifies tokens against a key set that it keeps by itself. Safe to share; dispose it to stop. */
export interface Verifier extends AsyncDisposable {
  readonly purpose: string
  /**
   * @throws TabibError TOKEN_EXPIRED; TOKEN_INVALID, `context.reason` one of `malformed`, `unknown-key`, `revoked`,
   * `signature`, `claims`; KEYS_UNAVAILABLE (answer 503) when nobody can tell.
   */
  verify(token: string, options: VerifyOptions): Promise<{ claims: JWTPayload; kid: string }>
  /**
   * What this replica lacks to be ready, in words; empty once it holds and has proved every published key. From then on
   * it lacks nothing until its keys are too old: were each new key a reason, all replicas would go out of service at
   * once, for a key that signs nothing before they hold it.
   */
  lacks(): string[]
}

const RELOAD_EVERY_MS = 10_000
const ATTEST_EVERY_MS = 3_000
const KEEP_EVERY_MS = 60_000
const HARD_LIMIT_MS = 3_600_000
const LOAD_WITHIN_MS = 5_000
/** Tokens with keys that are not held cost the issuer at most one load in this time, however many there are. */
const LEAST_BETWEEN_LOADS_MS = 250
const LONGEST_BACK_OFF_MS = 10_000
/** More tokens than this do not wait for a load together: a flood of forged ones must not fill the memory. */
const MOST_WAITING = 10_000
const MOST_UNKNOWN_KEYS = 50
const MOST_ANNOUNCED = 1_000
/** An RFC 7638 thumbprint by SHA-256. */
const KID = /^[\w-]{43}$/

/**
 * Opens a verifier and loads its keys; it goes on trying when that fails, and is not ready meanwhile.
 *
 * What jose's `createRemoteJWKSet` does not do: a key that it lacks is looked for in a load that begins after the
 * token came, with no cool-down in which good tokens are refused; a failed load leaves the last good keys in use, up
 * to a hard limit, and is repeated with back-off and never by each token; a removed or revoked key stops within one
 * load instead of ten minutes.
 */
export async function openVerifier(options: VerifierOptions): Promise<Verifier> {
  const {
    purpose,
    load,
    attest,
    nats,
    kept,
    reloadEveryMs = RELOAD_EVERY_MS,
    hardLimitMs = HARD_LIMIT_MS,
  } = options
  let keys: Keys | undefined
  /** As it was loaded, of these keys. */
  let keySet: KeySet | undefined
  let keptAt = Number.NEGATIVE_INFINITY
  /** Announced as revoked, and when: a load that began later knows better. */
  let announced = new Map<string, number>()
  const revokedEver = new Set<string>()
  let lastBeganAt = Number.NEGATIVE_INFINITY
  let failures = 0
  let running: Promise<void> | undefined
  let queued: Promise<void> | undefined
  let next: NodeJS.Timeout | undefined
  let attested: { hash: string; current: string } | undefined
  let said: Promise<void> | undefined
  let saying = false
  let wasReady = false
  let waiting = 0
  const report: VerifierReport = { run: randomUUID(), accepted: 0, refused: {}, unknownKeys: {} }
  const stop = new AbortController()

  const loadNow = async (): Promise<void> => {
    const beganAt = performance.now()
    lastBeganAt = beganAt
    try {
      const signal = AbortSignal.any([stop.signal, AbortSignal.timeout(LOAD_WITHIN_MS)])
      keySet = await load(signal)
      keys = { ...(await proveKeys(keySet, keys)), loadedAt: beganAt }
      // A database that was restored to before a revocation does not say any more what it said.
      for (const kid of keys.revoked) revokedEver.add(kid)
      announced = new Map([...announced].filter(([, at]) => at >= beganAt))
      failures = 0
    } catch (error) {
      failures += 1
      throw error
    } finally {
      loadLater()
    }
    if (keys.hash !== attested?.hash) said = say()
    if (beganAt - keptAt > KEEP_EVERY_MS) await keep()
  }
  const keep = async (): Promise<void> => {
    if (!kept || !keySet || !keys) return
    keptAt = keys.loadedAt
    const revoked = [...new Set([...revokedEver, ...announced.keys()])]
    await kept.keep({ ...keySet, revoked }, performance.now() - keys.loadedAt)
  }
  /** The keys that an earlier process left, with the age that they have by now. */
  const takeKept = async (): Promise<void> => {
    const found = await kept?.read()
    if (!found || found.ageMs > hardLimitMs) return
    keySet = found.keySet
    keys = { ...(await proveKeys(keySet, undefined)), loadedAt: performance.now() - found.ageMs }
    for (const kid of keys.revoked) revokedEver.add(kid)
    wasReady = keys.unproved.length === 0
  }
  /** Every load, whoever asked for it, puts the next one off: until it is due, or until the back-off is over. */
  const loadLater = (): void => {
    clearTimeout(next)
    if (stop.signal.aborted) return
    const afterMs = failures === 0 ? reloadEveryMs * (0.9 + Math.random() * 0.2) : backOffMs(failures)
    next = setTimeout(() => {
      listen()
      reload().catch(() => {})
    }, afterMs)
  }
  /** A load that begins from now on, shared by all who ask before it does. Rejects when it fails. */
  const reload = (): Promise<void> => {
    queued ??= (async () => {
      await running?.catch(() => {})
      await nap(lastBeganAt + LEAST_BETWEEN_LOADS_MS - performance.now(), stop.signal)
      queued = undefined
      running = loadNow()
      await running
    })()
    return queued
  }
  const say = async (stopped = false): Promise<void> => {
    if (!attest || !keys || saying) return
    saying = true
    const { hash } = keys
    try {
      const current = await attestKeys(attest.db, {
        purpose,
        instance: attest.instance,
        hash,
        stopped,
        ...report,
      })
      attested = { hash, current }
      if (current !== hash && !stopped) reload().catch(() => {})
    } catch {
      // Told next time; who cannot attest counts as silent meanwhile.
    } finally {
      saying = false
    }
  }
  let listening: Promise<AsyncDisposable> | undefined
  const listen = () => {
    listening ??= nats?.listen(announcementSubject(purpose), (_, payload) => {
      for (const kid of readAnnouncement(payload).revoked)
        if (announced.size < MOST_ANNOUNCED) announced.set(kid, performance.now())
      void keep()
      reload().catch(() => {})
    })
    // NATS may be away when the process starts; asked again before the next load.
    listening?.catch(() => {
      listening = undefined
    })
  }
  const isRevoked = (kid: string) => announced.has(kid) || revokedEver.has(kid)
  const refuse = (reason: string, message: string, cause?: unknown): TabibError => {
    report.refused[reason] = (report.refused[reason] ?? 0) + 1
    if (reason === 'unavailable') return new TabibError('KEYS_UNAVAILABLE', message, { cause })
    if (reason === 'expired') return new TabibError('TOKEN_EXPIRED', message, { cause })
    return new TabibError('TOKEN_INVALID', message, { cause, context: { reason } })
  }
  const keyOf = async (kid: string): Promise<Key> => {
    const held = keys?.byId.get(kid)
    if (held) return held
    const missing = (reason: 'unknown-key' | 'unavailable', cause?: unknown) => {
      countUnknown(report, kid)
      return refuse(
        reason,
        reason === 'unavailable'
          ? 'the key is not held, and none can be loaded now'
          : 'no published key signed this',
        cause,
      )
    }
    // While loads fail nobody waits for one: the token may well be good, and its sender may ask again.
    if (failures > 0 || waiting >= MOST_WAITING) throw missing('unavailable')
    waiting += 1
    try {
      await reload()
    } catch (cause) {
      throw missing('unavailable', cause)
    } finally {
      waiting -= 1
    }
    const found = keys?.byId.get(kid)
    if (!found) throw missing('unknown-key')
    return found
  }

  listen()
  await reload().catch(takeKept)
  await said
  const attesting = setInterval(() => {
    said = say()
  }, ATTEST_EVERY_MS)

  return {
    purpose,
    async verify(token, { typ, issuer, audience }) {
      const kid = keyIdOf(token)
      if (kid === undefined) throw refuse('malformed', 'the token is no JWT that names a key')
      if (isRevoked(kid)) throw refuse('revoked', 'the key that signed this was revoked')
      if (keys && performance.now() - keys.loadedAt > hardLimitMs)
        throw refuse('unavailable', `no key set could be loaded for ${hardLimitMs / 1_000} s`)
      const { key, algorithm } = await keyOf(kid)
      let claims: JWTPayload
      try {
        const expected = {
          ...(issuer !== undefined && { issuer }),
          ...(audience !== undefined && { audience }),
        }
        const options = { algorithms: [algorithm], typ, requiredClaims: ['exp'], ...expected }
        claims = (await jwtVerify(token, key, options)).payload
      } catch (cause) {
        if (cause instanceof errors.JWTExpired)
          throw refuse('expired', 'the time of the token has passed', cause)
        if (cause instanceof errors.JWTClaimValidationFailed)
          throw refuse('claims', `the "${cause.claim}" of the token is not the one asked for`, cause)
        throw refuse('signature', 'the signature of the token does not hold', cause)
      }
      // It may have been revoked while the signature was verified.
      if (isRevoked(kid)) throw refuse('revoked', 'the key that signed this was revoked')
      report.accepted += 1
      return { claims, kid }
    },
    lacks() {
      if (!keys) return ['no key set could be loaded yet']
      if (performance.now() - keys.loadedAt > hardLimitMs) return ['the key set is too old']
      if (wasReady) return []
      const lacks = keys.unproved.map((kid) => `key ${kid} is published and could not be proved`)
      if (attest && attested?.hash !== keys.hash) lacks.push('the key set could not be attested yet')
      else if (attest && attested?.current !== keys.hash) lacks.push('a newer key set is published')
      wasReady = lacks.length === 0
      return lacks
    },
    async [Symbol.asyncDispose]() {
      clearInterval(attesting)
      stop.abort()
      clearTimeout(next)
      await (queued ?? running)?.catch(() => {})
      await listening?.then((subscription) => subscription[Symbol.asyncDispose]()).catch(() => {})
      await said
      await say(true)
    },
  }
}

/**
 * Loads a key set from its endpoint. An unchanged one costs no body; a redirect is not followed.
 *
 * @param fetch The way out; never a default one, which would go past whatever bounds the service's own.
 */
export function keySetAt(url: string, fetch: Fetch): VerifierOptions['load'] {
  let last: { etag: string; keySet: KeySet } | undefined
  return async (signal) => {
    const headers = { 'cache-control': 'no-cache', ...(last && { 'if-none-match': last.etag }) }
    const response = await fetch(url, { headers, signal, redirect: 'error' })
    if (response.status === 304 && last) return last.keySet
    if (response.status !== 200) throw new Error(`the key set at ${url} answered ${response.status}`)
    const keySet = keySetSchema.parse(await response.json()) as KeySet
    const etag = response.headers.get('etag')
    last = etag === null ? undefined : { etag, keySet }
    return keySet
  }
}

interface Key {
  key: Awaited<ReturnType<typeof importJWK>>
  algorithm: string
}

interface Keys {
  byId: Map<string, Key>
  revoked: Set<string>
  /** Of the keys held, each proved. */
  hash: string
  unproved: string[]
  loadedAt: number
}

/** Keeps the keys whose probe verifies: only what was proved is held, attested and used. */
async function proveKeys(keySet: KeySet, known: Keys | undefined): Promise<Omit<Keys, 'loadedAt'>> {
  const probes = new Map(keySet.probes.map((probe) => [keyIdOf(probe), probe]))
  const byId = new Map<string, Key>()
  const unproved: string[] = []
  for (const jwk of keySet.keys) {
    const held = known?.byId.get(jwk.kid) ?? (await prove(jwk, probes.get(jwk.kid)))
    if (held) byId.set(jwk.kid, held)
    else unproved.push(jwk.kid)
  }
  return { byId, unproved, revoked: new Set(keySet.revoked), hash: jwksHash(byId.keys()) }
}

async function prove(jwk: KeySet['keys'][number], probe: string | undefined): Promise<Key | undefined> {
  if (probe === undefined || jwk.alg === undefined) return undefined
  try {
    const key = await importJWK(jwk, jwk.alg)
    const { protectedHeader } = await compactVerify(probe, key, { algorithms: [jwk.alg] })
    return protectedHeader.typ === PROBE_TYPE ? { key, algorithm: jwk.alg } : undefined
  } catch {
    return undefined
  }
}

function readAnnouncement(payload: Uint8Array): Announcement {
  const shape = z.object({ revoked: z.array(z.string().regex(KID)).max(100) })
  try {
    return shape.parse(JSON.parse(new TextDecoder().decode(payload)))
  } catch {
    return { revoked: [] }
  }
}

function countUnknown({ unknownKeys }: VerifierReport, kid: string): void {
  // The id is whatever a caller wrote: only what could be a key's is kept, and of these the last ones.
  if (!KID.test(kid)) return
  const known = Object.keys(unknownKeys)
  if (!(kid in unknownKeys) && known.length === MOST_UNKNOWN_KEYS) delete unknownKeys[known[0]!]
  unknownKeys[kid] = (unknownKeys[kid] ?? 0) + 1
}

function keyIdOf(token: string): string | undefined {
  try {
    const { kid } = decodeProtectedHeader(token)
    return typeof kid === 'string' ? kid : undefined
  } catch {
    return undefined
  }
}

const backOffMs = (failures: number): number =>
  Math.min(LONGEST_BACK_OFF_MS, LEAST_BETWEEN_LOADS_MS * 2 ** Math.min(failures, 10)) *
  (0.5 + Math.random() / 2)

async function nap(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await delay(ms, undefined, { signal }).catch(() => {})
}
