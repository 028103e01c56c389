import type { Pool, PoolerState } from '../../adapters/pgbouncer/client.ts'
import type { Finding } from '../../finding.ts'
import { counted } from '../../render.ts'
import type { PoolState, PostgresState } from './pool.ts'
import { connectionsFor } from './pool-size.ts'
import { WAIT_LIMIT_S } from './pool-wait.ts'
import { isIdleInTransaction, type Session } from './sessions.ts'

/** What one pool should have, and from which figures. Without pgbouncer: all applications' pools together. */
export interface PoolAdvice {
  database: string
  user: string | null
  /** Server connections that it may have now; null where nobody limits them together. */
  size: number | null
  /** What it should have. */
  wants: number
  /** Of that, what fits into Postgres beside everybody else. */
  fits: number
  transactionsPerS: number
  /** How long a transaction keeps its connection, in seconds. */
  transactionS: number
  /** In use now by who is at work, and wanted by who waits. */
  now: number
}

export interface PoolDiagnosis {
  /** Connections that clients may have: `max_connections` less what is reserved. */
  usable: number | undefined
  used: number | undefined
  /** Who has a connection, through pgbouncer where it is so. */
  sessions: (Session & { owner: string })[]
  advice: PoolAdvice[]
  /** What to paste to set the sizes, with what it does as a comment; empty when they are right. */
  commands: string[]
  findings: Finding[]
}

/** A transaction in which nothing happens for so long is somebody's mistake. */
const IDLE_LIMIT_S = 30
const STATEMENT_LIMIT_S = 60
/** The API gives up after 3 s: who refuses later is told of by nobody. */
const QUERY_WAIT_LIMIT_S = 3
const FULL = 0.9

/** Says what is wrong with sessions and pools, and how many connections each pool should have. */
export function diagnosePool(
  { postgres, pooler }: PoolState,
  { cores }: { cores: number | undefined },
): PoolDiagnosis {
  const server = postgres.read ? postgres.value : undefined
  const bouncer = pooler?.read ? pooler.value : undefined
  const sessions = (server?.sessions ?? []).map((one) => ({ ...one, owner: ownerOf(one, bouncer) }))
  const usable = server && server.maxConnections - server.reserved
  const advice = bouncer ? poolAdvice(bouncer, server) : server ? databaseAdvice(server) : []
  return {
    usable,
    used: server && sessions.filter(({ kind }) => kind !== 'replication').length,
    sessions,
    advice,
    commands: bouncer ? sizeCommands(bouncer, advice) : [],
    findings: [
      ...[postgres, pooler].flatMap((one) => (one && !one.read ? unread(one.error) : [])),
      ...(server ? serverFindings(server, sessions) : []),
      ...(bouncer ? poolFindings(bouncer) : []),
      ...(server ? pooledFindings(server, bouncer) : []),
      ...sizeFindings(advice, { server, cores }),
    ],
  }
}

/** User, application and address: of the client, where pgbouncer connects in its own name. */
export function ownerOf(
  { pid, user, application, client }: Session,
  bouncer: PoolerState | undefined,
): string {
  const behind = bouncer?.clients.find(({ serverPid }) => serverPid === pid)
  const pooled = bouncer?.serverPids.includes(pid)
  const [name, address] = behind ? [behind.application, behind.address] : [application, client]
  return [
    user ?? '?',
    name || 'no application_name',
    `${address ?? 'local'}${pooled ? ' through pgbouncer' : ''}`,
  ].join(', ')
}

function poolAdvice(bouncer: PoolerState, server: PostgresState | undefined): PoolAdvice[] {
  const stuck = new Set(
    server?.sessions
      .filter((one) => isIdleInTransaction(one) && (one.forS ?? 0) > IDLE_LIMIT_S)
      .map(({ pid }) => pid),
  )
  const busyNow = ({ serversActive, clientsWaiting }: Pool) => serversActive + clientsWaiting
  const advice = bouncer.pools.map((pool): PoolAdvice => {
    const ofDatabase = bouncer.pools.filter(({ database }) => database === pool.database)
    const rate = bouncer.rates.find(({ database }) => database === pool.database)
    const { transactionsPerS = 0, transactionS = 0 } = rate ?? {}
    const all = ofDatabase.reduce((sum, one) => sum + busyNow(one), 0)
    // pgbouncer counts by database: each login is given its part of what is at work now.
    const share = all > 0 ? busyNow(pool) / all : 1 / ofDatabase.length
    // Whoever holds a connection and does nothing with it needs none.
    const held = server?.sessions.filter(
      (one) =>
        stuck.has(one.pid) &&
        one.user === pool.user &&
        one.database === databaseOf(bouncer, pool) &&
        bouncer.serverPids.includes(one.pid),
    ).length
    const now = Math.max(0, busyNow(pool) - (held ?? 0))
    const wants = Math.max(connectionsFor(transactionsPerS * transactionS * share), now)
    return {
      database: pool.database,
      user: pool.user,
      size: bouncer.databases.find(({ name }) => name === pool.database)?.size ?? null,
      wants,
      fits: wants,
      transactionsPerS: transactionsPerS * share,
      transactionS,
      now,
    }
  })
  if (!server) return advice
  const direct = server.sessions.filter(
    ({ pid, kind }) => kind !== 'replication' && !bouncer.serverPids.includes(pid),
  ).length
  return fitted(advice, server.maxConnections - server.reserved - direct)
}

const databaseOf = ({ databases }: PoolerState, pool: Pool): string =>
  databases.find(({ name }) => name === pool.database)?.database ?? pool.database

/** Each gets its part of the room when all do not fit. */
function fitted(advice: PoolAdvice[], room: number): PoolAdvice[] {
  const wanted = advice.reduce((sum, { wants }) => sum + wants, 0)
  if (wanted <= room) return advice
  return advice.map((one) => ({ ...one, fits: Math.max(1, Math.floor((one.wants * room) / wanted)) }))
}

function databaseAdvice({ database, load, sessions, maxConnections, reserved }: PostgresState): PoolAdvice[] {
  if (!load) return []
  const own = sessions.filter((one) => one.database === database)
  const now = own.filter(({ state, kind }) => state === 'active' && kind !== 'own').length
  const wants = Math.max(connectionsFor(load.busy), now)
  const elsewhere = sessions.filter((one) => one.database !== database && one.kind !== 'replication').length
  return fitted(
    [
      {
        database,
        user: null,
        size: null,
        wants,
        fits: wants,
        transactionsPerS: load.transactionsPerS,
        transactionS: load.transactionsPerS > 0 ? load.busy / load.transactionsPerS : 0,
        now,
      },
    ],
    maxConnections - reserved - elsewhere,
  )
}

/** The console's command for now, the line of the file for good: a RELOAD puts back what the file says. */
function sizeCommands(
  { databases, settings, where, login }: PoolerState & { where: string; login: string },
  advice: readonly PoolAdvice[],
): string[] {
  const small = advice.filter(({ size, fits }) => size !== null && fits > size)
  const ownSize = (name: string) => {
    const one = databases.find((database) => database.name === name)
    return one !== undefined && String(one.size) !== settings.get('default_pool_size') ? one : undefined
  }
  const console = (sql: string) => `psql postgres://${login}@${where}/pgbouncer -c '${sql}'`
  const byDefault = small.filter(({ database }) => !ownSize(database)).map(({ fits }) => fits)
  const most = Math.max(0, ...byDefault)
  const names = [...new Set(small.map(({ database }) => database))]
  const lines = names.flatMap((name) => {
    const one = ownSize(name)
    const fits = Math.max(...small.filter(({ database }) => database === name).map((each) => each.fits))
    return one
      ? [
          `# pgbouncer.ini, [databases]: ${name} = host=${one.host} port=${one.port} dbname=${one.database} pool_size=${fits}`,
        ]
      : []
  })
  const capped = databases.flatMap(({ name, maxConnections }) => {
    const wanted = advice.filter(({ database }) => database === name).reduce((sum, { fits }) => sum + fits, 0)
    return maxConnections > 0 && wanted > maxConnections ? [wanted] : []
  })
  const cap = Math.max(0, ...capped)
  return [
    ...(most > 0
      ? [
          `${console(`SET default_pool_size = ${most}`)}    # now, until the next RELOAD`,
          `# pgbouncer.ini, [pgbouncer]: default_pool_size = ${most}`,
        ]
      : []),
    ...(cap > 0
      ? [
          `${console(`SET max_db_connections = ${cap}`)}    # now, until the next RELOAD`,
          `# pgbouncer.ini, [pgbouncer]: max_db_connections = ${cap}`,
        ]
      : []),
    ...lines,
    ...(most > 0 || cap > 0 || lines.length > 0
      ? [`${console('RELOAD')}    # for good, once the file says so`]
      : []),
  ]
}

type Problem = Pick<Finding, 'severity' | 'object' | 'message'> & Partial<Pick<Finding, 'evidence' | 'fix'>>

function finding(id: string, { severity, object, message, evidence = {}, fix = null }: Problem): Finding {
  return {
    id: `pool/${id}`,
    check: 'cluster pool',
    severity,
    object,
    message,
    evidence,
    fix,
    runbook: 'runbooks/billing/fm-19-connection-pool-exhausted.md',
    cacheKey: `pool/${id}:${object}`,
    waived: false,
  }
}

const unread = ({ code, message, suggestions }: { code: string; message: string; suggestions: string[] }) => [
  finding('unread', {
    severity: 'error',
    object: code,
    message,
    fix: suggestions[0] ?? null,
  }),
]

function serverFindings(server: PostgresState, sessions: PoolDiagnosis['sessions']): Finding[] {
  const { maxConnections, reserved, role, idleLimitMs, database } = server
  const usable = maxConnections - reserved
  const used = sessions.filter(({ kind }) => kind !== 'replication').length
  const unseen = sessions.filter(({ state }) => state === undefined)
  const end = (pid: number) => `tabib cluster pool --terminate ${pid} --confirm ${pid} --reason "<why>"`
  return [
    ...(used >= usable * FULL
      ? [
          finding('nearly-full', {
            severity: 'error',
            object: 'Postgres',
            message: `${used} of the ${usable} connections that clients may have are taken`,
            evidence: { used, usable, maxConnections, reserved },
            fix: 'tabib cluster pool --json    # who has them; then end them, or pool them',
          }),
        ]
      : []),
    ...sessions
      .filter((one) => isIdleInTransaction(one) && (one.forS ?? 0) > IDLE_LIMIT_S)
      .map(({ pid, owner, forS, tenant, blocks, query }) =>
        finding('idle-in-transaction', {
          severity: 'error',
          object: `process ${pid}`,
          message: `${owner}: in a transaction and idle for ${seconds(forS)}${blocks > 0 ? `, while ${blocks} wait for what it holds` : ''}`,
          evidence: { pid, idleS: forS, tenant, blocks, query },
          fix: end(pid),
        }),
      ),
    ...sessions
      .filter(
        ({ state, forS, kind }) => state === 'active' && kind === 'client' && (forS ?? 0) > STATEMENT_LIMIT_S,
      )
      .map(({ pid, owner, forS, tenant, waitsFor, query }) =>
        finding('long-statement', {
          severity: 'warning',
          object: `process ${pid}`,
          message: `${owner}: one statement for ${seconds(forS)}`,
          evidence: { pid, statementS: forS, tenant, waitsFor, query },
          fix: `tabib cluster pool --cancel ${pid} --confirm ${pid} --reason "<why>"`,
        }),
      ),
    ...(idleLimitMs === 0
      ? [
          finding('no-idle-limit', {
            severity: 'warning',
            object: database,
            message: 'Postgres ends no idle transaction by itself',
            fix: `psql -c "alter database ${JSON.stringify(database).replaceAll('"', '\\"')} set idle_in_transaction_session_timeout = '60s'"`,
          }),
        ]
      : []),
    ...(unseen.length > 0
      ? [
          finding('unseen', {
            severity: 'warning',
            object: role.name,
            message: `${counted(unseen.length, 'session')} of other roles counted and not seen: state and statement want pg_monitor`,
            evidence: { sessions: unseen.length, users: [...new Set(unseen.map(({ user }) => user))] },
            fix: `psql -c 'grant pg_monitor to ${role.name}'`,
          }),
        ]
      : []),
    ...(role.maySignal
      ? []
      : [
          finding('may-not-end', {
            severity: 'info',
            object: role.name,
            message: 'may end sessions of its own role alone; those of others want pg_signal_backend',
            fix: `psql -c 'grant pg_signal_backend to ${role.name}'`,
          }),
        ]),
  ]
}

function poolFindings({ pools, settings, clientCount, where }: PoolerState & { where: string }): Finding[] {
  const waitLimitS = Number(settings.get('query_wait_timeout') ?? 0)
  const mostClients = Number(settings.get('max_client_conn') ?? 0)
  return [
    ...pools
      .filter(({ maxWaitS }) => maxWaitS > WAIT_LIMIT_S)
      .map(({ database, user, clientsWaiting, maxWaitS, serversActive }) =>
        finding('waiting', {
          severity: 'error',
          object: `${database}/${user}`,
          message: `${clientsWaiting} clients wait for one of its ${serversActive} connections, the first for ${maxWaitS.toFixed(1)} s`,
          evidence: { clientsWaiting, maxWaitS, serversActive },
          fix: 'tabib cluster pool    # its commands for the size, or who holds the connections',
        }),
      ),
    ...(waitLimitS === 0 || waitLimitS > QUERY_WAIT_LIMIT_S
      ? [
          finding('wait-limit', {
            severity: 'warning',
            object: where,
            message: `query_wait_timeout is ${waitLimitS === 0 ? 'off' : `${waitLimitS} s`}: callers give up after ${QUERY_WAIT_LIMIT_S} s and are not told why`,
            fix: '# pgbouncer.ini, [pgbouncer]: query_wait_timeout = 2',
          }),
        ]
      : []),
    ...(mostClients > 0 && clientCount >= mostClients * FULL
      ? [
          finding('nearly-full', {
            severity: 'error',
            object: where,
            message: `${clientCount} of max_client_conn = ${mostClients} clients are connected`,
            fix: `# pgbouncer.ini, [pgbouncer]: max_client_conn = ${mostClients * 2}`,
          }),
        ]
      : []),
  ]
}

/** What a pool in transaction mode cannot carry (pgbouncer 1.18, "SQL feature map for pooling modes"). */
function pooledFindings(
  { pooled, role, database }: PostgresState,
  bouncer: PoolerState | undefined,
): Finding[] {
  if (!pooled) return []
  const own = bouncer?.pools.find((pool) => pool.user === role.name && databaseOf(bouncer, pool) === database)
  if (own?.mode === 'session') return []
  const mode = own ? `in ${own.mode} mode` : 'whose mode is not known'
  return [
    finding('no-session', {
      severity: own ? 'error' : 'warning',
      object: 'database.url',
      message: `tabib reaches Postgres through a pooler ${mode}: the relay's prepared statements, the lock of \`migrate up\` and the settings of \`ledger verify\` and \`isolation check\` need a session of their own`,
      evidence: { mode: own?.mode ?? null },
      fix: 'let database.url and ownerUrl name Postgres itself for workers and operators; `tabib api run` alone may go through the pool',
    }),
  ]
}

function sizeFindings(
  advice: readonly PoolAdvice[],
  { server, cores }: { server: PostgresState | undefined; cores: number | undefined },
): Finding[] {
  const wants = advice.reduce((sum, one) => sum + one.wants, 0)
  const fits = advice.reduce((sum, one) => sum + one.fits, 0)
  // The PostgreSQL wiki's start for connections at work: cores × 2 + spindles.
  const atWork = cores === undefined ? undefined : cores * 2 + 1
  return [
    ...advice
      .filter(({ size, fits: should }) => size !== null && should > size)
      .map(({ database, user, size, fits: should, transactionsPerS, transactionS, now }) =>
        finding('too-small', {
          severity: 'warning',
          object: `${database}/${user}`,
          message: `has ${size} server connections and should have ${should}`,
          evidence: { size, should, transactionsPerS, transactionS, now },
        }),
      ),
    ...(fits < wants
      ? [
          finding('no-room', {
            severity: 'error',
            object: 'Postgres',
            message: `the pools want ${wants} connections and there is room for ${fits}`,
            evidence: { wants, fits, maxConnections: server?.maxConnections },
            fix: `psql -c "alter system set max_connections = ${(server?.maxConnections ?? 0) + wants - fits}"    # and start Postgres anew, standbys first`,
          }),
        ]
      : []),
    ...(atWork !== undefined && wants > atWork
      ? [
          finding('cores', {
            severity: 'info',
            object: 'Postgres',
            message: `more than ${atWork} at work at once only take turns on ${cores} cores: shorter transactions help more than a larger pool`,
            evidence: { wants, cores },
          }),
        ]
      : []),
  ]
}

const seconds = (value: number | null): string => `${Math.round(value ?? 0)} s`
