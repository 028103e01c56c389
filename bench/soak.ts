// npm run soak [-- outbox|cluster|states|keys|ledger|payments|erasure|reapply] [--rounds n] [--seed n]: what the tests run a short version of, for long.
import { randomUUID } from 'node:crypto'
import { copyFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { SEAL_KEY_POLICY, SEAL_PURPOSE } from '../src/domain/ledger/seal.ts'
import { runChaos } from '../src/drill/chaos.ts'
import { ASYNCHRONOUS_STATES, runClusterStates, SYNCHRONOUS_STATES } from '../src/drill/cluster-states.ts'
import { runErasures } from '../src/drill/erasures.ts'
import { runFailovers } from '../src/drill/failovers.ts'
import { runVerifications } from '../src/drill/ledger-verifications.ts'
import { runPayments } from '../src/drill/payments.ts'
import { runReapplications } from '../src/drill/reapplications.ts'
import { runRotations } from '../src/drill/rotations.ts'
import { ensureKey } from '../src/sandbox/visit.ts'
import { createWorld, type World, type WorldOptions } from '../src/sandbox/world.ts'
import { quantile } from './measurement.ts'

interface Options {
  rounds: number | undefined
  seed: number
  signal: AbortSignal
  say: (line: string) => void
}

const SOAKS: Record<string, (world: World, options: Options) => Promise<{ result: object; ok: boolean }>> = {
  /** Hundreds of kills under concurrent and late-committing producers. */
  async outbox(world, { rounds = 200, ...options }) {
    const result = await runChaos(world, { ...options, rounds })
    return { result, ok: result.lost.length === 0 }
  },
  /** Twenty kills of the primary of a Patroni cluster under a steady load of writes. */
  async cluster(world, { rounds = 20, ...options }) {
    const run = await runFailovers(world, { ...options, rounds })
    const spread = (of: 'detectS' | 'promoteS' | 'recoverS' | 'wholeS', killed: string) => {
      const values = run.rounds
        .filter((round) => round.killed === killed)
        .map((round) => round[of])
        .filter((s) => s !== null)
      return { p50: quantile(values, 0.5), most: Math.max(...values) }
    }
    const seconds = Object.fromEntries(
      ['node', 'postgres'].map((killed) => [
        killed,
        {
          detectS: spread('detectS', killed),
          promoteS: spread('promoteS', killed),
          recoverS: spread('recoverS', killed),
          wholeS: spread('wholeS', killed),
        },
      ]),
    )
    return { result: { ...run, seconds }, ok: run.lost.length === 0 && run.twoLeaders === 0 }
  },
  /** Every state that a cluster can be in, made for real: what is said of it, and what becomes of the command that is printed. */
  async states(world, { rounds, ...options }) {
    const states = await runClusterStates(world, SYNCHRONOUS_STATES.slice(0, rounds), options)
    await using loose = await createWorld({
      proxied: true,
      cluster: { synchronous: false, settings: { postgresql: { use_pg_rewind: false } } },
    })
    states.push(...(await runClusterStates(loose, ASYNCHRONOUS_STATES.slice(0, rounds), options)))
    return { result: { states }, ok: states.every(({ amiss }) => amiss.length === 0) }
  },
  /** A thousand verifications of a ledger that is posted to at the same time: each finds nothing. */
  async ledger(world, { rounds = 1_000, signal, say }) {
    await ensureKey(world.app, SEAL_PURPOSE, SEAL_KEY_POLICY)
    const { keyStore } = world.app
    const result = await runVerifications(
      { db: world.db, service: world.service, keyStore },
      {
        tenantId: await world.tenant(),
        folder: world.env.TABIB_LEDGER_SEALS!,
        verifications: rounds,
        signal,
        say,
      },
    )
    return { result, ok: result.falseAlarms.length === 0 }
  },
  /** A hundred rotations under load with verifiers killed in mid-phase, then revocations with NATS up and down. */
  async keys(world, { rounds = 100, ...options }) {
    const run = await runRotations(world, {
      ...options,
      rotations: rounds,
      revocations: Math.ceil(rounds / 10),
      silent: 1,
    })
    const spread = (values: number[]) => ({
      n: values.length,
      p50: quantile(values, 0.5),
      p99: quantile(values, 0.99),
      most: Math.max(...values),
    })
    const natsUp = spread(run.refusedAfterS.natsUp)
    const natsDown = spread(run.refusedAfterS.natsDown)
    const result = { ...run, activationS: spread(run.activationS), refusedAfterS: { natsUp, natsDown } }
    return { result, ok: run.rejected.length === 0 && natsUp.p99 <= 5 && natsDown.p99 <= 30 }
  },
  /** Fifty at once ask for one payment, ten thousand times, while the API and Redis are killed. */
  async payments(world, { rounds = 10_000, ...options }) {
    const result = await runPayments(world, { ...options, rounds, duplicates: 50, calm: 40 })
    return { result, ok: result.doubled.length === 0 }
  },
  /** A thousand patients erased while NATS loses 5 % and every process is killed again and again, held against a calm run. */
  async erasure(world, { rounds = 1_000, seed, signal, say }) {
    const tenantId = randomUUID()
    const run = { subjects: rounds, seed, tenantId, signal, say }
    const faults = await runErasures(world, { ...run, loss: 0.05, kills: 8, serverEvery: 6 })
    say('the same without faults')
    await using calmWorld = await createWorld()
    // Pseudonyms and hashes are the same only under the same secret.
    await copyFile(world.env.TABIB_ERASURE_SECRET_FILE!, calmWorld.env.TABIB_ERASURE_SECRET_FILE!)
    const calm = await runErasures(calmWorld, { ...run, loss: 0, kills: 0, serverEvery: 0 })
    const differs = Object.keys(calm.state).filter((place) => calm.state[place] !== faults.state[place])
    const ok =
      differs.length === 0 &&
      faults.doubled + faults.missing === 0 &&
      Object.keys(faults.left).length + faults.findings.length === 0 &&
      faults.complete === rounds
    return { result: { faults, calm, differs }, ok }
  },
  /** Five hundred patients erased, and the backup of before restored: `erasure reapply` killed thirty times, held against a calm run. */
  async reapply(world, { rounds = 500, ...options }) {
    const result = await runReapplications(world, { ...options, subjects: rounds, kills: 30 })
    const runs = [result.calm, result.killed]
    const ok =
      result.differs.length === 0 &&
      runs.every(
        ({ letIn, doubled, left, complete }) =>
          letIn + doubled + Object.keys(left).length === 0 && complete === rounds,
      )
    return { result, ok }
  },
}

const WORLDS: Record<string, WorldOptions> = {
  cluster: { cluster: true },
  // A store with a majority to lose, links to cut and disks to fill.
  states: { cluster: { etcdMembers: 3 }, proxied: true, diskMb: { postgres: 300 } },
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string' }, seed: { type: 'string', default: '1' } },
})
const [name = 'outbox'] = positionals
const soak = SOAKS[name]
if (!soak) {
  process.stderr.write(`usage: npm run soak -- ${Object.keys(SOAKS).join('|')} [--rounds n] [--seed n]\n`)
  process.exit(2)
}
const stop = new AbortController()
process.once('SIGINT', () => stop.abort(new Error('interrupted')))

const run = async () => {
  await using world = await createWorld(WORLDS[name])
  return await soak(world, {
    rounds: values.rounds === undefined ? undefined : Number(values.rounds),
    seed: Number(values.seed),
    signal: stop.signal,
    say: (line) => process.stderr.write(`${line}\n`),
  })
}
const { result, ok } = await run()
// A connection that a fault left half open must not keep the caller waiting.
process.stdout.write(`${JSON.stringify(result, null, 2)}\n`, () => process.exit(ok ? 0 : 1))
