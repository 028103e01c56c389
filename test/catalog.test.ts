import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Fires, judge } from '../src/catalog/failure-mode.ts'
import { catalog, findMode } from '../src/catalog/index.ts'
import { specRow, specRows } from '../src/catalog/spec.ts'
import { TabibError } from '../src/errors.ts'
import { packageRoot } from '../src/package-root.ts'

const folder = join(packageRoot(), 'src/catalog')
const services = ['billing', 'communication', 'virtual-care', 'sync', 'tabib']
const cards = readdirSync(folder, { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && services.includes(entry.name))
  .flatMap(({ name }) => readdirSync(join(folder, name)).map((file) => `${name}/${basename(file, '.ts')}`))

describe('the specification', () => {
  test('has 22 billing, 20 communication, 14 virtual care and 5 sync rows, and the error budget', () => {
    const count = (service: string) =>
      [...specRows().values()].filter((row) => row.service === service).length
    expect(count('billing')).toBe(22)
    expect(count('communication')).toBe(21)
    expect(count('virtual-care')).toBe(14)
    expect(count('sync')).toBe(5)
  })

  test('is quoted word for word', () => {
    expect(specRow('billing/FM-02')).toEqual({
      id: 'billing/FM-02',
      service: 'billing',
      failure: 'NATS JetStream unreachable',
      impact: 'Events queue in outbox; downstream consumers drift',
      detection: 'billing_outbox_pending climbs, billing_outbox_lag_seconds climbs',
      mitigation: 'Outbox relay retries; consumers catch up after recovery; no data loss',
    })
    expect(specRow('communication/C06')?.trigger).toBe('JetStream cluster partition')
    expect(specRow('communication/SLO')?.mitigation).toBe('feature freeze new adapter changes')
    expect(specRow('sync/3')?.text).toContain('OPTIMISTIC_LOCK_CONFLICT')
  })

  test('has a card for each of its 62 rows, and a row for each card that is not our own', () => {
    const ids = catalog.map(({ id }) => id as string).filter((id) => !id.startsWith('tabib/'))
    expect(ids).toHaveLength(62)
    expect([...ids].sort()).toEqual([...specRows().keys()].sort())
  })
})

describe('the catalog', () => {
  test('has one file a mode, named after its id, and none that the index leaves out', () => {
    const prefixes = catalog.map(({ id }) => id.toLowerCase())
    expect(cards).toHaveLength(catalog.length)
    for (const prefix of prefixes) {
      expect(
        cards.filter((card) => card === prefix || card.startsWith(`${prefix}-`)),
        prefix,
      ).toHaveLength(1)
    }
  })

  test('says what each failure is in one plain sentence of its own', () => {
    const titles = catalog.map(({ title }) => title)
    expect(new Set(titles).size).toBe(titles.length)
    for (const title of titles) {
      expect(title).toMatch(/^[A-Z].{20,90}[^.]$/)
    }
  })

  test('finds a mode in any case', () => {
    expect(findMode('BILLING/fm-17').id).toBe('billing/FM-17')
  })

  test('names the ids that come near one it does not know', () => {
    const attempt = () => findMode('billing/FM-2')
    expect(attempt).toThrow(TabibError)
    expect(attempt).toThrow(/no failure mode "billing\/FM-2"; near it: billing\/FM-02/)
  })
})

describe('a verdict', () => {
  const verdicts: [Fires, number | undefined, string][] = [
    [{ above: 30 }, 30, 'ok'],
    [{ above: 30 }, 30.1, 'firing'],
    [{ below: 1 }, 1, 'ok'],
    [{ below: 1 }, 0, 'firing'],
    [{ climbs: ['a', 'b'], overS: 60 }, 0, 'ok'],
    [{ climbs: ['a', 'b'], overS: 60 }, 0.1, 'firing'],
    [{ above: 30 }, undefined, 'unknown'],
    [{ above: 30 }, Number.NaN, 'unknown'],
  ]
  test.each(verdicts)('of %j at %s is %s', (fires, value, verdict) => {
    expect(judge({ fires }, { value })).toBe(verdict)
  })
})
