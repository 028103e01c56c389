// npm run bench -- NAME… [--json]: runs bench/NAME.ts. Exit 1 when a target is missed.
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { table, toJson } from '../src/render.ts'
import type { Measurement } from './measurement.ts'

const folder = import.meta.dirname
const NO_BENCH = new Set(['index.ts', 'measurement.ts', 'soak.ts'])
const known = readdirSync(folder)
  .filter((file) => file.endsWith('.ts') && !NO_BENCH.has(file))
  .map((file) => file.replace(/\.ts$/, ''))

const json = process.argv.includes('--json')
const names = process.argv.slice(2).filter((arg) => !arg.startsWith('--'))
const unknown = names.filter((name) => !existsSync(join(folder, `${name}.ts`)))
if (names.length === 0 || unknown.length > 0) {
  process.stderr.write(`usage: npm run bench -- NAME… [--json]; there are: ${known.join(', ')}\n`)
  process.exit(2)
}

let missed = false
for (const name of names) {
  const { run } = (await import(`./${name}.ts`)) as { run(): Promise<Measurement[]> }
  const measurements = await run()
  missed ||= measurements.some(({ ok }) => ok === false)
  process.stdout.write(
    json
      ? measurements.map((one) => `${toJson(one, 0)}\n`).join('')
      : `${table(measurements, ['case', 'value', 'unit', 'against', 'ratio', 'target', 'ok'])}\n`,
  )
}
process.exit(missed ? 1 : 0)
