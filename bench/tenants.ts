import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { execa } from 'execa'
import { writeTenant } from '../src/domain/tenants/apply.ts'
import { packageRoot } from '../src/package-root.ts'
import { completeTenant } from '../src/sandbox/tenants.ts'
import { createWorld } from '../src/sandbox/world.ts'
import { type Measurement, median } from './measurement.ts'

const TENANTS = 1_000
const ITEMS = 50
const ROUNDS = 5

/** `tenant check --all --offline` over 1,000 tenants of 50 items, as a process with its start, against one tenant. */
export async function run(): Promise<Measurement[]> {
  await using world = await createWorld()
  for (let n = 0; n < TENANTS; n++) {
    const slug = `clinic-${n}`
    const tenant = completeTenant({ slug, name: slug, currency: 'AFN', region: 'af-herat' })
    tenant.items = Array.from({ length: ITEMS }, (_, i) => ({
      code: `ITEM-${i}`,
      sellable: true,
      tax: 'standard',
    }))
    tenant.priceLists[0]!.prices = tenant.items.map(({ code }) => ({ item: code, amountMinor: 1 }))
    await world.db.transaction((tx) => writeTenant(tx, randomUUID(), tenant))
  }
  const timesMs = { one: [] as number[], all: [] as number[] }
  for (let round = 0; round < ROUNDS; round++) {
    timesMs.one.push(await timeOf(['clinic-7'], world.env))
    timesMs.all.push(await timeOf(['--all'], world.env))
  }
  const one = median(timesMs.one)
  const all = median(timesMs.all)
  const base = { bench: 'tenants', unit: 'ms', target: null, ok: null }
  return [
    { ...base, case: 'tenant check clinic-7 --offline', value: Math.round(one), against: null, ratio: null },
    {
      ...base,
      case: `tenant check --all --offline, ${TENANTS} tenants of ${ITEMS} items`,
      value: Math.round(all),
      against: 'one tenant',
      ratio: Math.round((all / one) * 100) / 100,
    },
  ]
}

async function timeOf(argv: string[], env: Record<string, string>): Promise<number> {
  const startedAt = performance.now()
  const tabib = join(packageRoot(), 'bin/run.js')
  await execa(process.execPath, [tabib, 'tenant', 'check', ...argv, '--offline', '--short'], { env })
  return performance.now() - startedAt
}
