import { Registry } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { createApp, createLogger } from '../src/app.ts'
import { catalogMetrics } from '../src/catalog/metrics.ts'
import { loadConfig } from '../src/config.ts'
import { useDatabase } from './support/database.ts'

const database = useDatabase()

async function scrape(databaseUrl: string): Promise<string> {
  const config = loadConfig({ env: { TABIB_DATABASE_URL: databaseUrl }, cwd: '/' })
  await using app = createApp(config, { log: createLogger('silent') })
  const registry = new Registry()
  await catalogMetrics(app, registry)
  return await registry.metrics()
}

describe('the metrics of the catalog', () => {
  test('are pending and lag of every outbox and the figure of every built mode', async () => {
    const text = await scrape(database.url('tabib'))
    for (const prefix of ['billing', 'communication', 'vcare']) {
      expect(text).toMatch(new RegExp(`^${prefix}_outbox_pending 0$`, 'm'))
      expect(text).toMatch(new RegExp(`^${prefix}_outbox_lag_seconds 0$`, 'm'))
    }
    expect(text).toMatch(/^communication_outbox_relay_live 1$/m)
  })

  test('are left out when they cannot be read: an old figure would look healthy', async () => {
    const text = await scrape('postgres://tabib@127.0.0.1:1/tabib')
    expect(text).toContain('# HELP billing_outbox_lag_seconds')
    // That Postgres is away is the one thing that is known of it.
    expect(text.match(/^\w+ [\d.]+$/gm)).toEqual([
      'billing_database_writable 0',
      'communication_database_available 0',
    ])
  })
})
