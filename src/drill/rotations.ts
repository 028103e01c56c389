import { setTimeout as delay } from 'node:timers/promises'
import { decodeProtectedHeader } from 'jose'
import { announceKeys } from '../domain/keys/announce.ts'
import { enterPhase, listKeys } from '../domain/keys/phase.ts'
import { revokeKey } from '../domain/keys/revoke.ts'
import { planRollback, rollbackRotation } from '../domain/keys/rollback.ts'
import { advanceKeys, prepareKey, rotateKeys } from '../domain/keys/rotate.ts'
import { activeKey, signToken } from '../domain/keys/sign.ts'
import { TabibError } from '../errors.ts'
import { type Chance, randomFrom } from '../sandbox/random.ts'
import type { TabibProcess, World } from '../sandbox/world.ts'

export interface RotationsOptions {
  rotations: number
  /** How often a key is revoked with NATS up, and as often with it down. */
  revocations: number
  /** How many of the three replicas do not attest: nothing waits for them, and they find a revocation by loading alone. */
  silent?: number
  seed: number
  signal: AbortSignal
  say?: (line: string) => void
}

export interface RotationsResult {
  rotations: number
  /** Of these, how many were rolled back after the new key had signed. */
  rolledBack: number
  /** Replicas killed (SIGKILL) in the midst of a phase and started again, by the phase that the keys were in then. */
  killedIn: Record<KillPhase, number>
  /** Tokens sent to replicas, and answered. */
  tokens: number
  /** Answers other than 200 to a token that was valid then. */
  rejected: string[]
  /** Seconds that a rotation took until the new key signed. */
  activationS: number[]
  /** Seconds from the revocation until a replica refused, for each replica. */
  refusedAfterS: { natsUp: number[]; natsDown: number[] }
}

/** `drain`: the new key signs, and tokens of the old one are about; `retire`: while the old one leaves the key set. */
const KILL_PHASES = ['prepare', 'publish', 'attest', 'drain', 'retire'] as const
type KillPhase = (typeof KILL_PHASES)[number]

const PURPOSE = 'service-token'
const BY = 'rehearsal'
const REPLICAS = 3
const SENDERS = 4
const TOKEN_LIFETIME_S = 2
const STEP_MS = 50
const WAIT_LIMIT_MS = 60_000
const ROLLBACK_EVERY = 5

/**
 * Rotates keys while tokens are verified by replicas that are killed and started again in the midst of a phase, then
 * revokes keys and takes the time until every replica refuses them. What takes minutes by promise (the overlap) is
 * backdated once the last real token has expired.
 *
 * @throws TabibError TIMED_OUT when a rotation or a revocation has not come through after a minute.
 */
export async function runRotations(world: World, options: RotationsOptions): Promise<RotationsResult> {
  const { signal, say } = options
  const chance = randomFrom(options.seed)
  const ask = {
    purpose: PURPOSE,
    algorithm: 'ES256' as const,
    policy: { ...world.app.config.keys.policy, allAttest: true },
    by: BY,
  }
  await rotateKeys(world.app, ask)
  await using issuer = await world.startWorkers(['key-rotation'])
  const fleet = await openReplicas(world, await issuer.listening(), options.silent ?? 0)
  const traffic = await openTraffic(world, fleet, chance)
  const result: Omit<RotationsResult, 'tokens' | 'rejected'> = {
    rotations: 0,
    rolledBack: 0,
    killedIn: { prepare: 0, publish: 0, attest: 0, drain: 0, retire: 0 },
    activationS: [],
    refusedAfterS: { natsUp: [], natsDown: [] },
  }
  try {
    while (result.rotations < options.rotations) {
      signal.throwIfAborted()
      const beganAt = performance.now()
      const victim = KILL_PHASES[result.rotations % KILL_PHASES.length]!
      let restarted = Promise.resolve()
      const during = async (phase: KillPhase) => {
        if (phase !== victim) return
        restarted = (await fleet.restart(chance)).back
        result.killedIn[phase] += 1
      }
      const kid = await prepareKey(world.app, ask)
      await during('prepare')
      await enterPhase(world.db, { kid, from: ['prepare'], to: 'publish', by: BY })
      await during('publish')
      await enterPhase(world.db, { kid, from: ['publish'], to: 'attest', by: BY })
      await announceKeys(world.app, ask)
      await during('attest')
      await waitFor(signal, `${kid} to sign`, async () => {
        await advanceKeys(world.app, ask)
        return (await activeKey(world.app, ask)).key.publicJwk.kid === kid
      })
      result.activationS.push(seconds(beganAt))
      await during('drain')
      result.rotations += 1
      if (result.rotations % ROLLBACK_EVERY === 0) {
        await rollbackRotation(world.app, { plan: await planRollback(world.app, ask), by: BY })
        result.rolledBack += 1
      }
      await retireDraining(world, signal, traffic, () => during('retire'))
      await restarted
      say?.(
        `${result.rotations}/${options.rotations} rotated, ${traffic.tokens()} tokens, ${traffic.rejected.length} rejected`,
      )
    }
    await traffic.pause()
    for (const nats of ['natsUp', 'natsDown'] as const) {
      if (nats === 'natsDown') await world.nats.kill()
      for (let n = 1; n <= options.revocations; n++) {
        signal.throwIfAborted()
        const tookS = await revokeOnce(world, fleet, signal)
        result.refusedAfterS[nats].push(...tookS)
        say?.(`${nats} ${n}/${options.revocations} revoked, refused after ${Math.max(...tookS).toFixed(2)} s`)
      }
    }
    await world.nats.restart()
  } finally {
    await traffic.pause()
    await fleet[Symbol.asyncDispose]()
  }
  return { ...result, tokens: traffic.tokens(), rejected: traffic.rejected }
}

interface Fleet extends AsyncDisposable {
  /** URLs of the replicas that are in service. */
  urls(): string[]
  /** Kills one and starts it again in its place; `back` settles once that says that it is ready. */
  restart(chance: Chance): Promise<{ back: Promise<void> }>
}

async function openReplicas(world: World, keysUrl: string, silent: number): Promise<Fleet> {
  const replicas: { process: TabibProcess; url: string | undefined }[] = []
  const start = async (i: number) => {
    const instance = `replica-${i}`
    const process = await world.startVerifier({ purpose: PURPOSE, keysUrl, instance, silent: i < silent })
    const url = await process.listening()
    replicas[i] = { process, url: undefined }
    await waitFor(new AbortController().signal, `${instance} to be ready`, async () => {
      const answer = await fetch(`${url}/readyz`)
      await answer.arrayBuffer()
      return answer.ok
    })
    replicas[i] = { process, url }
  }
  await Promise.all(Array.from({ length: REPLICAS }, (_, i) => start(i)))
  return {
    urls: () => replicas.flatMap(({ url }) => (url === undefined ? [] : [url])),
    async restart(chance) {
      const i = chance.below(REPLICAS)
      const { process } = replicas[i]!
      process.signal('SIGKILL')
      await process.exited
      return { back: start(i) }
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(replicas.map(({ process }) => process[Symbol.asyncDispose]()))
    },
  }
}

interface Traffic {
  tokens(): number
  readonly rejected: string[]
  /** When the last token that this key signed expires, as Unix time in ms. */
  lastExpiryOf(kid: string): number
  pause(): Promise<void>
}

/** Sends fresh tokens and such as were signed a while ago, as long as they are valid, to replicas at random. */
async function openTraffic(world: World, fleet: Fleet, chance: Chance): Promise<Traffic> {
  const keyStore = await world.app.keyStore()
  const lastExpiry = new Map<string, number>()
  const rejected: string[] = []
  let pool: { token: string; expiresMs: number }[] = []
  let tokens = 0
  let sending = true
  const send = async () => {
    while (sending) {
      const { token, kid, expiresAt } = await sign(world, keyStore, TOKEN_LIFETIME_S)
      const fresh = { token, expiresMs: expiresAt.getTime() }
      lastExpiry.set(kid, Math.max(fresh.expiresMs, lastExpiry.get(kid) ?? 0))
      pool = [...pool.filter(({ expiresMs }) => expiresMs > Date.now()).slice(-100), fresh]
      for (const { token, expiresMs } of [fresh, chance.pick(pool)]) {
        const answer = await ask(chance.pick(fleet.urls()), token)
        if (answer === undefined) continue
        // Once its time has passed it may be refused.
        if (Date.now() >= expiresMs) continue
        tokens += 1
        if (answer.status !== 200)
          rejected.push(`${decodeProtectedHeader(token).kid}: ${answer.status} ${answer.text}`)
      }
      await delay(2)
    }
  }
  const senders = Array.from({ length: SENDERS }, send)
  return {
    tokens: () => tokens,
    rejected,
    lastExpiryOf: (kid) => lastExpiry.get(kid) ?? 0,
    async pause() {
      sending = false
      await Promise.all(senders)
    },
  }
}

/** Retires what drains as soon as none of its tokens is valid any more. */
async function retireDraining(
  world: World,
  signal: AbortSignal,
  traffic: Traffic,
  meanwhile: () => Promise<void>,
): Promise<void> {
  const draining = (await listKeys(world.app, { purpose: PURPOSE })).filter(({ phase }) => phase === 'drain')
  await waitFor(signal, 'tokens to expire', async () =>
    draining.every(({ kid }) => Date.now() > traffic.lastExpiryOf(kid)),
  )
  await world.owner.query(
    `update tabib.signing_key
     set since = since - make_interval(secs => overlap_s), published_at = published_at - make_interval(secs => overlap_s)
     where purpose = $1 and phase in ('activate', 'drain')`,
    [PURPOSE],
  )
  await Promise.all([advanceKeys(world.app, { purpose: PURPOSE, by: BY }), meanwhile()])
}

/** Revokes the key that signs; returns the seconds until each replica refused its token. */
async function revokeOnce(world: World, fleet: Fleet, signal: AbortSignal): Promise<number[]> {
  const keyStore = await world.app.keyStore()
  const { token, kid } = await sign(world, keyStore, 120)
  for (const url of fleet.urls()) {
    const before = await ask(url, token)
    if (before?.status !== 200) throw new TabibError('BUG', `a valid token was refused: ${before?.text}`)
  }
  const revokedAt = performance.now()
  const revoking = revokeKey(world.app, { kid, reason: 'rehearsal', by: BY, runId: crypto.randomUUID() })
  const tookS = await Promise.all(
    fleet.urls().map(async (url) => {
      await waitFor(signal, `${url} to refuse ${kid}`, async () => (await ask(url, token))?.status === 401)
      return seconds(revokedAt)
    }),
  )
  await revoking
  const next = await sign(world, keyStore, 120)
  for (const url of fleet.urls()) {
    const after = await ask(url, next.token)
    if (after?.status !== 200)
      throw new TabibError('BUG', `the successor's token was refused: ${after?.text}`)
  }
  return tookS
}

const sign = (world: World, keyStore: Awaited<ReturnType<World['app']['keyStore']>>, lifetimeS: number) =>
  signToken({ db: world.db, keyStore }, { purpose: PURPOSE, typ: 'JWT', lifetimeS, claims: {} })

/** What a replica answers; undefined when it was killed meanwhile. */
async function ask(url: string, token: string): Promise<{ status: number; text: string } | undefined> {
  try {
    const headers = { authorization: `Bearer ${token}` }
    const answer = await fetch(`${url}/api/v1/keys/${PURPOSE}/verify`, { headers })
    return { status: answer.status, text: await answer.text() }
  } catch {
    return undefined
  }
}

async function waitFor(signal: AbortSignal, what: string, met: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_LIMIT_MS
  while (!(await met())) {
    signal.throwIfAborted()
    if (performance.now() > deadline) throw new TabibError('TIMED_OUT', `waited a minute for ${what}`)
    await delay(STEP_MS)
  }
}

const seconds = (sinceMs: number): number => Math.round(performance.now() - sinceMs) / 1_000
