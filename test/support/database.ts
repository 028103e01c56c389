import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, inject } from 'vitest'
import { type Database, openDatabase } from '../../src/adapters/postgres/client.ts'
import type { SandboxRole } from '../../src/sandbox/servers/postgres.ts'

/** A migrated database of a test file's own. Its parts exist from `beforeAll` on. */
export interface TestDatabase {
  readonly name: string
  /** tabib's own role: relay and auditor. */
  readonly db: Database
  /** A service's role: row-level security applies. */
  readonly service: Database
  /** Owner of the schemas: what migrations run as. */
  readonly owner: Database
  url(role: SandboxRole): string
}

/** Clones the template for this file; at its end the file fails if a connection was not given back. */
export function useDatabase(): TestDatabase {
  const name = `test_${randomBytes(4).toString('hex')}`
  const url = (role: SandboxRole) => inject('templateUrls')[role].replace(/[^/]+$/, name)
  const opened = new Map<SandboxRole, Database>()
  const get = (role: SandboxRole): Database => {
    const database = opened.get(role) ?? openDatabase({ url: url(role), applicationName: `test ${role}` })
    opened.set(role, database)
    return database
  }

  beforeAll(async () => {
    await asAdmin((admin) =>
      admin.query(`create database ${name} owner tabib_owner template ${inject('template')}`),
    )
  })
  afterAll(async () => {
    // Closing waits for whoever still holds a connection.
    await Promise.race([Promise.all([...opened.values()].map((database) => database.close())), delay(5_000)])
    await asAdmin(async (admin) => {
      const left = await connectionsTo(admin, name)
      await admin.query(`drop database ${name} with (force)`)
      if (left.length > 0) throw new Error(`connections not given back:\n${left.join('\n')}`)
    })
  })
  return {
    name,
    get db() {
      return get('tabib')
    },
    get service() {
      return get('service')
    },
    get owner() {
      return get('tabib_owner')
    },
    url,
  }
}

/** Who is still connected once the server has had time to notice who left. */
async function connectionsTo(admin: Database, name: string): Promise<string[]> {
  for (let attempt = 0; ; attempt += 1) {
    const rows = await admin.query<{ who: string }>(
      `select concat_ws(' ', application_name, usename, state, 'after:', left(query, 100)) as who
       from pg_stat_activity where datname = $1 and backend_type = 'client backend'`,
      [name],
    )
    if (rows.length === 0 || attempt === 50) return rows.map(({ who }) => who)
    await delay(20)
  }
}

async function asAdmin(work: (admin: Database) => Promise<unknown>): Promise<void> {
  await using admin = openDatabase({ url: inject('adminUrl'), maxConnections: 1 })
  await work(admin)
}
