import { parseArgs } from 'node:util'
import { runChaos } from '../src/drill/chaos.ts'
import { createWorld } from '../src/sandbox/world.ts'

// Hundreds of kills under concurrent and late-committing producers; the tests run a short version of the same code.
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '200' }, seed: { type: 'string', default: '1' } },
})
const stop = new AbortController()
process.once('SIGINT', () => stop.abort(new Error('interrupted')))

await using world = await createWorld()
const result = await runChaos(world, {
  rounds: Number(values.rounds),
  seed: Number(values.seed),
  signal: stop.signal,
  say: (line) => process.stderr.write(`${line}\n`),
})
process.stdout.write(`${JSON.stringify(result, null, 2)}\n`)
process.exitCode = result.lost.length === 0 ? 0 : 1
