import type { TestProject } from 'vitest/node'
import { openNats } from '../../src/adapters/nats/client.ts'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { migrateUp } from '../../src/domain/schema/migrate.ts'
import { openSandboxFolder } from '../../src/sandbox/folder.ts'
import { preparePostgres } from '../../src/sandbox/prepared.ts'
import { requirePrograms } from '../../src/sandbox/servers/find.ts'
import { startNats } from '../../src/sandbox/servers/nats.ts'
import { type PreparedPostgres, type SandboxRole, startPostgres } from '../../src/sandbox/servers/postgres.ts'
import { startRedis } from '../../src/sandbox/servers/redis.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    /** Superuser of the shared Postgres: for cloning and dropping databases alone. */
    adminUrl: string
    /** The migrated database that each test file clones. */
    template: string
    /** The template's URL for each role. */
    templateUrls: Record<SandboxRole, string>
    /** The shared NATS, with tabib's streams. A test that publishes takes `useNats`, or a stream of its own. */
    natsUrl: string
    redisUrl: string
    /** What the worlds' own Postgres is copied from. */
    prepared: PreparedPostgres
  }
}

/** Starts one Postgres, NATS and Redis for the whole run, and migrates the template database once. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  // All that the tests use, installed at once where it is missing.
  await requirePrograms([
    'postgres',
    'initdb',
    'nats-server',
    'redis-server',
    'promtool',
    'alertmanager',
    'softhsm2-util',
    'pgbouncer',
    'libfaketime',
    'patroni',
    'etcd',
  ])
  const folder = await openSandboxFolder()
  let prepared: Awaited<ReturnType<typeof preparePostgres>> | undefined
  const stop = async () => {
    await prepared?.[Symbol.asyncDispose]()
    await folder[Symbol.asyncDispose]()
  }
  try {
    prepared = await preparePostgres()
    const { data, database, adminPassword, passwords } = prepared
    project.provide('prepared', { data, database, adminPassword, passwords })
    const [postgres, nats, redis] = await Promise.all([
      startPostgres({ folder }),
      startNats({ folder }),
      startRedis({ folder }),
    ])
    const { name, ownerUrl } = await postgres.createDatabase()
    {
      await using owner = openDatabase({ url: ownerUrl, maxConnections: 1 })
      await using client = openNats({ url: nats.url })
      await migrateUp({ db: owner, nats: client })
    }
    await postgres.grantRoles()
    project.provide('adminUrl', postgres.adminUrl)
    project.provide('template', name)
    project.provide('templateUrls', {
      tabib_owner: ownerUrl,
      tabib: postgres.url('tabib', name),
      service: postgres.url('service', name),
    })
    project.provide('natsUrl', nats.url)
    project.provide('redisUrl', redis.url)
  } catch (error) {
    await stop()
    throw error
  }
  return stop
}
