import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Nats } from '../../adapters/nats/client.ts'
import { type Database, isDatabaseAway } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { packageRoot } from '../../package-root.ts'
import { deadLetterStreamOf, eventStreamOf, SERVICES } from '../../service.ts'
import { ERASURE_STREAM } from '../erasure/remember.ts'
import { STEP_STREAM } from '../erasure/step.ts'
import { REVOCATION_STREAM } from '../keys/remember.ts'

export interface MigrationStatus {
  applied: string[]
  pending: string[]
  streams: { name: string; present: boolean; messages: number }[]
}

/**
 * Brings the database and the streams to what this version needs; a second run changes nothing. `db` must be the
 * owner's connection. Concurrent runs wait for each other (an advisory lock).
 *
 * @returns the migrations applied now, and the streams that were created or updated.
 */
export async function migrateUp(
  { db, nats }: { db: Database; nats: Nats },
  { replicas = 1, dedupeWindowMs = 120_000 }: { replicas?: number; dedupeWindowMs?: number } = {},
): Promise<{ migrations: string[]; streams: string[] }> {
  const migrations = await migrateDatabase({ db })
  const streams: string[] = []
  for (const stream of streamsNeeded({ replicas, dedupeWindowMs })) {
    if ((await nats.ensureStream(stream)) !== 'unchanged') streams.push(stream.name)
  }
  return { migrations, streams }
}

/** The database half of `migrateUp`. Makes today's outbox partitions too. */
export async function migrateDatabase({ db }: { db: Database }): Promise<string[]> {
  const { runner } = await import('node-pg-migrate')
  await using connection = await db.connection()
  // Concurrent runs queue here; node-pg-migrate's own lock would fail at once instead.
  await connection.query(`select pg_advisory_lock(hashtext('tabib.migrate'))`)
  try {
    const applied = await runner({
      dbClient: connection.raw,
      dir: join(packageRoot(), 'migrations'),
      direction: 'up',
      migrationsTable: 'migration',
      migrationsSchema: 'tabib',
      createMigrationsSchema: true,
      noLock: true,
      log: () => {},
    })
    for (const service of SERVICES) {
      await connection.query('select tabib.maintain_outbox($1, $2)', [service.replace('-', '_'), '10 years'])
    }
    return applied.map(({ name }) => name)
  } finally {
    await connection.query(`select pg_advisory_unlock(hashtext('tabib.migrate'))`)
  }
}

/** What is applied and what this version still needs; reads only. */
export async function migrationStatus({ db, nats }: { db: Database; nats: Nats }): Promise<MigrationStatus> {
  const { applied, pending } = await databaseStatus({ db })
  const streams = []
  for (const { name } of streamsNeeded({ replicas: 1, dedupeWindowMs: 120_000 })) {
    const info = await nats.stream(name)
    streams.push({ name, present: info !== undefined, messages: info?.state.messages ?? 0 })
  }
  return { applied, pending, streams }
}

/**
 * What workers check before they start.
 * @throws TabibError MIGRATION_REQUIRED naming what is missing.
 */
export async function assertMigrated({ db }: { db: Database }): Promise<void> {
  const { pending } = await databaseStatus({ db })
  if (pending.length === 0) return
  throw new TabibError(
    'MIGRATION_REQUIRED',
    `the database lacks ${pending.join(', ')}, which this version needs`,
    {
      suggestions: ['tabib migrate status', 'tabib migrate up'],
    },
  )
}

/**
 * Whether `assertMigrated` holds; false while nobody can tell, since the database is away.
 * @throws TabibError MIGRATION_REQUIRED, and whatever waiting would not mend.
 */
export async function isMigrated(systems: { db: Database }): Promise<boolean> {
  try {
    await assertMigrated(systems)
    return true
  } catch (error) {
    if (isDatabaseAway(error)) return false
    throw error
  }
}

/** What tabib's own login (not the owner's) still needs, each as a sentence with the statement to run; reads only. */
export async function missingRoles({ db }: { db: Database }): Promise<string[]> {
  const [login] = await db.query<{ name: string; missing: string[] }>(
    `select current_user as name, array(
       select wanted from unnest(array['tabib_app', 'tabib_relay', 'tabib_auditor', 'tabib_erasure']) wanted
       where not pg_has_role(current_user, wanted, 'member')) as missing`,
  )
  if (!login || login.missing.length === 0) return []
  return [
    `${login.name} lacks privileges that commands and workers need: grant ${login.missing.join(', ')} to ${login.name}`,
  ]
}

async function databaseStatus({ db }: { db: Database }): Promise<{ applied: string[]; pending: string[] }> {
  const wanted = (await readdir(join(packageRoot(), 'migrations')))
    .filter((file) => file.endsWith('.sql'))
    .map((file) => file.replace(/\.sql$/, ''))
    .sort()
  const [table] = await db.query<{ present: boolean }>(
    `select to_regclass('tabib.migration') is not null as present`,
  )
  const applied = table?.present
    ? (await db.query<{ name: string }>('select name from tabib.migration order by id')).map(
        ({ name }) => name,
      )
    : []
  return { applied, pending: wanted.filter((name) => !applied.includes(name)) }
}

function streamsNeeded({ replicas, dedupeWindowMs }: { replicas: number; dedupeWindowMs: number }) {
  const nanos = (ms: number) => ms * 1_000_000
  const events = SERVICES.flatMap((service) => [
    {
      name: eventStreamOf(service),
      subjects: [`${service}.evt.>`],
      num_replicas: replicas,
      duplicate_window: nanos(dedupeWindowMs),
      // A full stream must refuse, which the outbox survives; discarding old events would lose them.
      discard: 'new' as const,
      max_age: nanos(30 * 86_400_000),
    },
    {
      name: deadLetterStreamOf(service),
      subjects: [`${service}.dlq.>`],
      num_replicas: replicas,
      duplicate_window: nanos(dedupeWindowMs),
      discard: 'new' as const,
      max_age: nanos(90 * 86_400_000),
    },
  ])
  return [
    ...events,
    { ...REVOCATION_STREAM, num_replicas: replicas },
    { ...STEP_STREAM, num_replicas: replicas },
    { ...ERASURE_STREAM, num_replicas: replicas },
  ]
}
