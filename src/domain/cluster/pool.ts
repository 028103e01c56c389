import { setTimeout as delay } from 'node:timers/promises'
import { openPgBouncer, type PoolerState } from '../../adapters/pgbouncer/client.ts'
import { type Database, isPooled, type Queryable } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import type { Reading } from '../residency/judge.ts'
import { listSessions, type Session } from './sessions.ts'

export type { Pool } from '../../adapters/pgbouncer/client.ts'

/** What Postgres has to give, and who has it. */
export interface PostgresState {
  role: { name: string; seesAll: boolean; maySignal: boolean }
  database: string
  maxConnections: number
  /** Of them, kept for superusers and for who is granted them. */
  reserved: number
  /** 0: an idle transaction is never ended. */
  idleLimitMs: number
  sessions: Session[]
  /** What the database did while it was looked at. */
  load: { transactionsPerS: number; busy: number; overS: number } | undefined
  /** Whether tabib itself reaches it through a pooler. */
  pooled: boolean
}

/** All that judging the pools rests on. */
export interface PoolState {
  postgres: Reading<PostgresState>
  /** Undefined where the configuration names no pgbouncer. */
  pooler: Reading<PoolerState & { where: string; login: string }> | undefined
}

/**
 * Reads the sessions of Postgres, pgbouncer's pools, and, where no pgbouncer measures it, for `sampleMs` the database's
 * load. Changes nothing.
 */
export async function observePool(
  { db, config: { pgbouncerUrl } }: { db: Database; config: Pick<Config, 'pgbouncerUrl'> },
  { sampleMs }: { sampleMs: number },
): Promise<PoolState> {
  const [postgres, pooler] = await Promise.all([
    reading(readPostgres(db, pgbouncerUrl === undefined ? sampleMs : undefined)),
    pgbouncerUrl === undefined ? undefined : reading(readPooler(pgbouncerUrl)),
  ])
  return { postgres, pooler }
}

async function readPooler(url: string): Promise<PoolerState & { where: string; login: string }> {
  const pgbouncer = openPgBouncer({ url })
  return { ...(await pgbouncer.read()), where: pgbouncer.where, login: new URL(url).username }
}

async function readPostgres(db: Database, sampleMs: number | undefined): Promise<PostgresState> {
  const before = sampleMs === undefined ? undefined : await workDone(db)
  const [limits] = await db.query<Omit<PostgresState, 'role' | 'sessions' | 'load' | 'pooled'> & Role>(
    `select current_user as name, current_database() as database,
       pg_has_role(current_user, 'pg_read_all_stats', 'usage') as "seesAll",
       pg_has_role(current_user, 'pg_signal_backend', 'usage') as "maySignal",
       current_setting('max_connections')::int as "maxConnections",
       current_setting('superuser_reserved_connections')::int
         + coalesce(current_setting('reserved_connections', true), '0')::int as reserved,
       (select setting::int from pg_settings where name = 'idle_in_transaction_session_timeout') as "idleLimitMs"`,
  )
  const { name, seesAll, maySignal, ...figures } = limits!
  if (sampleMs !== undefined) await delay(sampleMs)
  const [sessions, after, pooled] = [
    await listSessions(db),
    before && (await workDone(db)),
    await isPooled(db),
  ]
  return {
    ...figures,
    role: { name, seesAll, maySignal },
    sessions,
    load: before && after && loadBetween(before, after),
    pooled,
  }
}

type Role = PostgresState['role']

interface Work {
  atS: number
  transactions: number
  busyS: number
}

/** Transactions that ended in this database, and how long its sessions were in one. */
async function workDone(db: Queryable): Promise<Work> {
  const [row] = await db.query<Work>(
    `select extract(epoch from clock_timestamp())::float8 as "atS",
       (xact_commit + xact_rollback)::float8 as transactions,
       -- Since version 14; as JSON, so that an older one lacks them and does not refuse.
       (coalesce((to_jsonb(one) ->> 'active_time')::float8, 0)
         + coalesce((to_jsonb(one) ->> 'idle_in_transaction_time')::float8, 0)) / 1000 as "busyS"
     from pg_stat_database one where datname = current_database()`,
  )
  return row!
}

function loadBetween(before: Work, after: Work): PostgresState['load'] {
  const overS = after.atS - before.atS
  if (!(overS > 0)) return undefined
  return {
    transactionsPerS: Math.max(0, after.transactions - before.transactions) / overS,
    busy: Math.max(0, after.busyS - before.busyS) / overS,
    overS,
  }
}

async function reading<T>(work: Promise<T>): Promise<Reading<T>> {
  try {
    return { read: true, value: await work }
  } catch (error) {
    if (!(error instanceof TabibError)) throw error
    return { read: false, error }
  }
}
