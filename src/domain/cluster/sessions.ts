import type { Queryable } from '../../adapters/postgres/client.ts'
import { redactSql } from './redact-sql.ts'

/** What a session is for, as far as ending it goes. */
export type SessionKind =
  /** An application's. */
  | 'client'
  /** A worker of tabib's: the relay, or another. */
  | 'worker'
  /** A standby or a subscriber. */
  | 'replication'
  /** The one that asks. */
  | 'own'

/** A session of Postgres. Times as text, to the microsecond: two sessions with one process number differ in them. */
export interface Session {
  pid: number
  kind: SessionKind
  user: string | null
  database: string | null
  application: string
  client: string | null
  /** Undefined where tabib's role may not see it. */
  state: string | undefined
  backendStart: string | undefined
  xactStart: string | null
  queryStart: string | null
  /** Since it is in its state. */
  forS: number | null
  /** Since its transaction began. */
  transactionS: number | null
  waitsFor: string | null
  /** How many other sessions wait for what it holds. */
  blocks: number
  /** The tenant for whom it works, where its statement says so: Postgres shows nobody another session's settings. */
  tenant: string | null
  /** The last statement, without its literals. */
  query: string
}

interface Row {
  pid: number
  user: string | null
  database: string | null
  application: string
  client: string | null
  backendType: string
  state: string | null
  backendStart: string | null
  xactStart: string | null
  queryStart: string | null
  forS: number | null
  transactionS: number | null
  waitsFor: string | null
  blocks: number
  query: string
  own: boolean
}

// As `worker run` names its connections.
const WORKER = /^tabib worker run/

const stamp = (column: string) => `to_char(${column} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

/** Every client's and every standby's session, the longest transaction first. */
export async function listSessions(db: Queryable): Promise<Session[]> {
  const rows = await db.query<Row>(
    `with blocked as (
       select unnest(pg_blocking_pids(pid)) as by from pg_stat_activity where wait_event_type = 'Lock'
     )
     select pid, usename as user, datname as database, coalesce(application_name, '') as application,
       host(client_addr) || ':' || client_port as client, backend_type as "backendType", state,
       ${stamp('backend_start')} as "backendStart", ${stamp('xact_start')} as "xactStart",
       ${stamp('query_start')} as "queryStart",
       extract(epoch from clock_timestamp() - state_change)::float8 as "forS",
       extract(epoch from clock_timestamp() - xact_start)::float8 as "transactionS",
       wait_event_type || '/' || wait_event as "waitsFor",
       (select count(*)::int from blocked where by = pid) as blocks,
       coalesce(query, '') as query, pid = pg_backend_pid() as own
     from pg_stat_activity
     -- Of what it may not see Postgres tells not even the kind; its own processes are in no database.
     where backend_type in ('client backend', 'walsender') or (backend_type is null and datid is not null)
     order by xact_start nulls last, state_change`,
  )
  return rows.map(({ backendType, own, query, state, backendStart, ...row }) => ({
    ...row,
    kind: own
      ? 'own'
      : backendType === 'walsender'
        ? 'replication'
        : WORKER.test(row.application)
          ? 'worker'
          : 'client',
    state: state ?? undefined,
    backendStart: backendStart ?? undefined,
    tenant: tenantIn(query),
    query: redactSql(query),
  }))
}

const tenantIn = (query: string): string | null =>
  /app\.tenant_id'?\s*(?:,|=|to)\s*'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'/i.exec(query)?.[1] ?? null

/** In a transaction, and nothing is being done in it. */
export const isIdleInTransaction = ({ state }: Pick<Session, 'state'>): boolean =>
  state?.startsWith('idle in transaction') ?? false
