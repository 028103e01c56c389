import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { pingRedis, type Redis } from '../../adapters/redis/client.ts'
import { TabibError } from '../../errors.ts'
import { packageRoot } from '../../package-root.ts'
import { type ClockSample, clockOffset, sampleClock } from '../cluster/clock-offset.ts'
import { postgresTime, readNtp, SKEW_LIMIT_S } from '../cluster/clocks.ts'
import { migrationStatus } from '../schema/migrate.ts'

/** One line of `tabib doctor`. */
export interface Check {
  name: string
  outcome: 'ok' | 'warning' | 'failed'
  message: string
  /** The command that mends it. */
  fix: string | null
  runbook: string | null
}

/** What is examined; each client is touched only when its server is configured. */
export interface Installation {
  readonly config: {
    readonly databaseUrl: string | undefined
    readonly natsUrl: string | undefined
    readonly redisUrl: string | undefined
    readonly pager: { alertmanagerUrl?: string; webhookUrl?: string }
    readonly keys: { store: string | undefined }
  }
  readonly db: Database
  readonly nats: Nats
  readonly redis: Redis
  keyStore(): Promise<KeyStore>
}

/** Examines this installation and the servers it is configured for; changes nothing. */
export async function examineInstallation(installation: Installation): Promise<Check[]> {
  const { config } = installation
  const { databaseUrl, natsUrl, redisUrl, pager, keys } = config
  return [
    packageFiles(),
    ...(databaseUrl === undefined
      ? [unset('Postgres', 'TABIB_DATABASE_URL')]
      : [
          await check('Postgres', () => roleOf(installation.db)),
          await check('clock', () => clockSkew(installation.db)),
        ]),
    await check('NTP', followsNtp),
    natsUrl === undefined
      ? unset('NATS', 'TABIB_NATS_URL')
      : await check('NATS', async () => {
          await installation.nats.ping()
          return `answers, messages of up to ${await installation.nats.maxPayload()} bytes`
        }),
    ...(databaseUrl === undefined || natsUrl === undefined
      ? []
      : [await check('schema and streams', () => migrated(installation))]),
    redisUrl === undefined
      ? unset('Redis', 'TABIB_REDIS_URL')
      : await check('Redis', async () => {
          await pingRedis(installation.redis)
          return 'answers'
        }),
    pager.alertmanagerUrl === undefined && pager.webhookUrl === undefined
      ? unset('pager', 'TABIB_ALERTMANAGER_URL')
      : { ...ok, name: 'pager', message: 'is configured' },
    keys.store === undefined
      ? unset('key store', 'TABIB_KEY_STORE')
      : await check('key store', async () => {
          await (await installation.keyStore()).ping()
          return `answers (${keys.store?.split(':')[0]})`
        }),
  ]
}

const ok = { outcome: 'ok', fix: null, runbook: null } as const

class Doubt extends Error {
  readonly fix: string | null
  constructor(message: string, fix: string | null = null) {
    super(message)
    this.fix = fix
  }
}

async function check(name: string, examine: () => Promise<string>): Promise<Check> {
  try {
    return { ...ok, name, message: await examine() }
  } catch (error) {
    if (error instanceof Doubt)
      return { name, outcome: 'warning', message: error.message, fix: error.fix, runbook: null }
    if (!(error instanceof TabibError)) throw error
    const { message, suggestions, ref } = error
    return { name, outcome: 'failed', message, fix: suggestions[0] ?? null, runbook: ref ?? null }
  }
}

function unset(name: string, variable: string): Check {
  return {
    name,
    outcome: 'warning',
    message: 'is not configured',
    fix: `export ${variable}=…`,
    runbook: null,
  }
}

function packageFiles(): Check {
  const missing = ['migrations', 'runbooks', 'docs/spec'].filter(
    (path) => !existsSync(join(packageRoot(), path)),
  )
  if (missing.length === 0)
    return { ...ok, name: 'package', message: `whole, on Node ${process.versions.node}` }
  const message = `${missing.join(', ')} missing in ${packageRoot()}`
  return { name: 'package', outcome: 'failed', message, fix: 'npm ci', runbook: null }
}

async function roleOf(db: Queryable): Promise<string> {
  const [role] = await db.query<{ version: string; name: string; exempt: boolean }>(
    `select current_setting('server_version') as version, rolname as name, rolsuper or rolbypassrls as exempt
     from pg_roles where rolname = current_user`,
  )
  if (role?.exempt) {
    throw new Doubt(
      `tabib works as ${role.name}, which row-level security does not apply to`,
      'create role tabib login in role tabib_app, tabib_relay, tabib_auditor, tabib_erasure',
    )
  }
  return `${role?.version}, as ${role?.name}`
}

const CLOCK_SAMPLES = 4

async function clockSkew(db: Queryable): Promise<string> {
  const samples: ClockSample[] = []
  for (let n = 0; n < CLOCK_SAMPLES; n += 1) samples.push(await sampleClock(() => postgresTime(db)))
  const { offsetMs, errorMs } = clockOffset(samples)!
  const said = `${Math.round(Math.abs(offsetMs))} ± ${Math.ceil(errorMs)} ms`
  if (Math.abs(offsetMs) - errorMs > SKEW_LIMIT_S * 1_000)
    throw new Doubt(`this host and Postgres differ by ${said}`, 'tabib cluster clocks')
  return `agrees with that of Postgres (${said})`
}

async function followsNtp(): Promise<string> {
  const { state, detail } = await readNtp()
  if (state !== 'synchronised') throw new Doubt(detail, 'tabib cluster clocks')
  return detail
}

async function migrated({ db, nats }: { db: Database; nats: Nats }): Promise<string> {
  const { applied, pending, streams } = await migrationStatus({ db, nats })
  const missing = [
    ...pending,
    ...streams.filter(({ present }) => !present).map(({ name }) => `stream ${name}`),
  ]
  if (missing.length === 0) return `${applied.length} migrations, ${streams.length} streams`
  throw new TabibError('MIGRATION_REQUIRED', `${missing.join(', ')} missing`, {
    suggestions: ['tabib migrate up'],
  })
}
