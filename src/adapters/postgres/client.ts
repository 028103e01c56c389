import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { TabibError } from '../../errors.ts'
import { type CopiedRows, copyOut } from './copy-out.ts'

export type Row = Record<string, unknown>

/** Anything a statement can be sent to: the pool or an open transaction. */
export interface Queryable {
  /** Sends one parametrised statement and returns its rows. `name` prepares it on its connection, where no pooler is between. */
  query<R extends object = Row>(text: string, values?: unknown[], name?: string): Promise<R[]>
}

/** An open transaction. Functions that must not run outside one take this type. */
export interface Transaction extends Queryable {
  readonly inTransaction: true
}

/** A connection of one's own: cursors, COPY, session settings. Released when disposed. */
export interface Connection extends Queryable, AsyncDisposable {
  readonly raw: pg.PoolClient
  /** Streams the rows of `copy (…) to stdout (format binary)`, `batchRows` at a time; take them all before anything else. */
  copyOut(sql: string, options: { batchRows: number }): AsyncIterable<CopiedRows>
}

export interface Database extends Queryable, AsyncDisposable {
  /** Runs `work` in one transaction: commits when it returns, rolls back when it throws. */
  transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T>
  connection(): Promise<Connection>
  close(): Promise<void>
}

export interface DatabaseOptions {
  url: string
  applicationName?: string
  maxConnections?: number
  connectTimeoutMs?: number
  /** A statement without an answer for so long counts as a lost connection; for work that never waits long. */
  answerWithinMs?: number
  /** 0 switches the limit off. */
  statementTimeoutMs?: number
  /** Told how long each piece of work waited for a connection, a pooler's included, and whether it got none. */
  onWait?: (wait: Wait) => void
}

export interface Wait {
  seconds: number
  /** No connection came: there are none left, or not within the time. */
  refused: boolean
}

// 64-bit integers come back as BigInt, numerics as text, timestamps as Date: a bigint never passes through a float.
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === 20
      ? BigInt
      : pg.types.getTypeParser(oid, format as 'text')) as pg.CustomTypesConfig['getTypeParser'],
}

/**
 * Opens a pool lazily: no socket until the first statement. Where the URL names several hosts, as libpq writes them, the
 * one that takes writes is used, or fits another `target_session_attrs` (`any`: the first that answers), and looked for again after a
 * statement that failed with POSTGRES_UNREACHABLE: so it follows a failover. A connection, and the `begin` of a transaction,
 * are tried again for half a second, with growing pauses and jitter; other statements are never repeated.
 *
 * @throws TabibError POSTGRES_UNREACHABLE when no connection can be made (safe to retry), POOL_EXHAUSTED when all there
 * may be are taken (safe to retry), NOT_REPLICATED when a commit's wait for its synchronous standby was cancelled: done here, and
 * lost if this host is, NOT_AUTHORISED when the server refuses the role or a privilege, LOCKED on a lock time-out, TIMED_OUT on the server's own for a statement. Other server errors pass through as pg's
 * `DatabaseError`, whose `code` is the SQLSTATE.
 */
export function openDatabase(options: DatabaseOptions): Database {
  const where = describeUrl(options.url)
  const { connectTimeoutMs = 5_000 } = options
  let found: Promise<pg.Pool> | undefined
  /** Connections whose last statement was told that its commit waits no longer for its synchronous standby. */
  const unreplicated = new WeakSet<pg.PoolClient>()
  const pools = hostUrls(options.url).map((url) => {
    const pool = new pg.Pool({
      connectionString: url,
      application_name: options.applicationName ?? 'tabib',
      max: options.maxConnections ?? 8,
      connectionTimeoutMillis: connectTimeoutMs,
      idleTimeoutMillis: 30_000,
      statement_timeout: options.statementTimeoutMs ?? 0,
      keepAlive: true,
      // A host that vanishes sends no farewell.
      keepAliveInitialDelayMillis: 10_000,
      ...(options.answerWithinMs === undefined ? {} : { query_timeout: options.answerWithinMs }),
      allowExitOnIdle: true,
      types,
    })
    pool.on('connect', (client) => {
      client.on('notice', ({ routine }) => {
        // By its source: the words are in the server's own language.
        if (routine === 'SyncRepWaitForLSN') unreplicated.add(client)
      })
    })
    // A pooled connection that dies while idle is replaced at the next query; the host may lead no longer.
    pool.on('error', () => {
      found = undefined
    })
    return pool
  })
  const attrs = /[?&]target_session_attrs=([\w-]+)/.exec(options.url)?.[1] ?? 'read-write'
  const target = (): Promise<pg.Pool> => {
    if (pools.length === 1) return Promise.resolve(pools[0]!)
    found ??= fittingHost(pools, { attrs, withinMs: connectTimeoutMs })
    return found
  }
  const failed = (cause: unknown): unknown => {
    const error = translate(cause, where)
    if (error instanceof TabibError && error.code === 'POOL_EXHAUSTED')
      options.onWait?.({ seconds: connectTimeoutMs / 1_000, refused: true })
    if (error instanceof TabibError && error.code === 'POSTGRES_UNREACHABLE') found = undefined
    return error
  }

  // The same for every connection of one URL.
  let pooled: boolean | undefined
  const isBehindPooler = async (client: pg.PoolClient): Promise<boolean> => {
    pooled ??= await servedByAnother(client)
    return pooled
  }
  // Until a statement was sent nothing was done, and all of it may be tried again.
  const connect = async ({ begin = false } = {}): Promise<pg.PoolClient> => {
    const deadline = performance.now() + Math.min(connectTimeoutMs, RETRY_WITHIN_MS)
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
      try {
        const pool = await target()
        const askedAt = performance.now()
        const client = await pool.connect()
        if (!begin) return client
        // Behind a pooler it is this that waits for a connection to the server.
        await begun(client)
        options.onWait?.({ seconds: (performance.now() - askedAt) / 1_000, refused: false })
        return client
      } catch (cause) {
        const error = failed(cause)
        const waitMs = jittered(pauseMs)
        const mayPass = error instanceof TabibError && error.code === 'POSTGRES_UNREACHABLE'
        if (!mayPass || performance.now() + waitMs > deadline) throw error
        await delay(waitMs)
      }
    }
  }
  const send = async <R extends object>(
    client: pg.PoolClient,
    text: string,
    values?: unknown[],
    name?: string,
  ): Promise<R[]> => {
    try {
      const config: pg.QueryConfig = { text }
      if (values) config.values = values
      // Behind a pooler the next transaction has another server connection, where the statement was never prepared.
      if (name && !(await isBehindPooler(client))) config.name = name
      unreplicated.delete(client)
      const { rows } = await client.query(config)
      if (unreplicated.has(client)) throw notReplicated(where)
      return rows as R[]
    } catch (cause) {
      throw failed(cause)
    }
  }
  const sendAlone = async <R extends object>(
    text: string,
    values?: unknown[],
    name?: string,
  ): Promise<R[]> => {
    const client = await connect()
    let broken: Error | undefined
    const onError = (error: Error) => {
      broken = error
    }
    client.on('error', onError)
    try {
      return await send<R>(client, text, values, name)
    } catch (error) {
      if (error instanceof TabibError && error.code === 'POSTGRES_UNREACHABLE') broken ??= error
      throw error
    } finally {
      client.off('error', onError)
      client.release(broken)
    }
  }

  const close = once(async () => void (await Promise.all(pools.map((pool) => pool.end()))))
  return {
    query: sendAlone,
    async transaction(work) {
      const client = await connect({ begin: true })
      let broken: Error | undefined
      // Without a listener a connection that dies in mid-transaction would end the process.
      const onError = (error: Error) => {
        broken = error
      }
      client.on('error', onError)
      try {
        const result = await work({
          inTransaction: true,
          query: (text, values, name) => send(client, text, values, name),
        })
        await send(client, 'commit')
        return result
      } catch (error) {
        await client.query('rollback').catch((rollbackError: Error) => {
          broken = rollbackError
        })
        throw error
      } finally {
        client.off('error', onError)
        client.release(broken)
      }
    },
    async connection() {
      const client = await connect()
      let broken: Error | undefined
      const onError = (error: Error) => {
        broken = error
      }
      client.on('error', onError)
      return {
        raw: client,
        query: (text, values, name) => send(client, text, values, name),
        async *copyOut(sql, { batchRows }) {
          let whole = false
          try {
            yield* copyOut(client, sql, { batchRows, answerWithinMs: options.answerWithinMs })
            whole = true
          } catch (cause) {
            throw failed(cause)
          } finally {
            if (!whole) broken ??= new Error('left in the middle of a COPY')
          }
        },
        async [Symbol.asyncDispose]() {
          client.off('error', onError)
          client.release(broken)
        },
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

/**
 * Whether a pooler stands between: it answers a connection with a process number of its own making, and another process
 * does the work.
 */
export async function isPooled(db: Pick<Database, 'connection'>): Promise<boolean> {
  await using connection = await db.connection()
  // Waited for here: the connection is given back at the end of this.
  return await servedByAnother(connection.raw)
}

async function servedByAnother(client: pg.PoolClient): Promise<boolean> {
  const { rows } = await client.query('select pg_backend_pid() as pid')
  return rows[0].pid !== (client as unknown as { processID: number }).processID
}

const FIRST_PAUSE_MS = 50
const LONGEST_PAUSE_MS = 500
const RETRY_WITHIN_MS = 500

/** With jitter, so that all clients of a host that is back do not come at one moment. */
const jittered = (pauseMs: number): number => pauseMs * (0.5 + Math.random() / 2)

/** Begins on a connection out of the pool, whose server may have died since; gives it back broken where it has. */
async function begun(client: pg.PoolClient): Promise<void> {
  const ignore = () => {}
  client.on('error', ignore)
  try {
    await client.query('begin')
  } catch (error) {
    client.release(error as Error)
    throw error
  } finally {
    client.off('error', ignore)
  }
}

/** libpq's `target_session_attrs`, and whether a host fits that is a replica, or otherwise read-only. */
const FITS: Record<string, (host: { readOnly: boolean; replica: boolean }) => boolean> = {
  any: () => true,
  'read-write': ({ readOnly }) => !readOnly,
  primary: ({ replica }) => !replica,
  'read-only': ({ readOnly }) => readOnly,
  standby: ({ replica }) => replica,
}

/** What `target_session_attrs` may be. libpq's `prefer-standby` is no promise, and not among them. */
export const SESSION_ATTRS: readonly string[] = Object.keys(FITS)

/** The pool whose host fits: all are asked at once, again and again with growing pauses, until one does. */
async function fittingHost(
  pools: readonly pg.Pool[],
  { attrs, withinMs }: { attrs: string; withinMs: number },
): Promise<pg.Pool> {
  const deadline = performance.now() + withinMs
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
    try {
      // One that hangs keeps the connection open and says nothing.
      const late = delay(withinMs, undefined, { ref: false }).then(() =>
        Promise.reject(new Error('no answer')),
      )
      return await Promise.any(
        pools.map(async (pool) => {
          const asked = pool.query(
            `select current_setting('transaction_read_only') = 'on' as "readOnly", pg_is_in_recovery() as replica`,
          )
          const { rows } = await Promise.race([asked, late])
          if (!FITS[attrs]?.(rows[0]))
            throw new Error(
              `it is ${rows[0].replica ? 'a replica' : rows[0].readOnly ? 'read-only' : 'no replica'}`,
            )
          return pool
        }),
      )
    } catch (cause) {
      const waitMs = jittered(pauseMs)
      const { errors } = cause as { errors: (Error & { code?: string })[] }
      const refused = errors.find(({ code }) => code === '28000' || code === '28P01')
      const [first] = errors
      // Where all refuse the login, it is wrong; one alone may be a replica that does not know it yet.
      if (refused && errors.every(({ code }) => code === refused.code)) throw refused
      if (performance.now() + waitMs > deadline) {
        throw new Error(`no connection to a host that is ${attrs}: ${first?.message}`, { cause: first })
      }
      await delay(waitMs)
    }
  }
}

/** One URL a host, of a URL with several as libpq writes them: `postgres://user@a:5432,b:5433/db`. */
export function hostUrls(url: string): string[] {
  const [, start = '', hosts = '', rest = ''] = /^(\w+:\/\/(?:[^@/]*@)?)([^/?]*)(.*)$/.exec(url) ?? []
  if (!hosts.includes(',')) return [url]
  const own = rest.replace(/([?&])target_session_attrs=[\w-]+&?/, '$1').replace(/[?&]$/, '')
  return hosts.split(',').map((host) => `${start}${host}${own}`)
}

/** The URL changed by `edit`, with all its hosts. */
export function editUrl(url: string, edit: (one: URL) => void): string {
  const urls = hostUrls(url).map((one) => new URL(one))
  for (const one of urls) edit(one)
  return urls[0]!.href.replace(/(\/\/(?:[^@/]*@)?)[^/?]*/, `$1${urls.map(({ host }) => host)}`)
}

/**
 * The words of pg-pool when all its connections are taken, and of pgbouncer (1.18) where a client waited for too long or
 * one more may not connect: neither has a code for it.
 */
const EXHAUSTED =
  /^timeout exceeded when trying to connect$|^query_wait_timeout$|^no more connections allowed/

/** Whether the database cannot be used now, for whatever reason: all else may be judged without it. */
export function isDatabaseAway(error: unknown): boolean {
  return (
    error instanceof TabibError && (error.code === 'POSTGRES_UNREACHABLE' || error.code === 'POOL_EXHAUSTED')
  )
}

const notReplicated = (where: string): TabibError =>
  new TabibError(
    'NOT_REPLICATED',
    `Postgres at ${where} has committed this alone: the wait for a synchronous standby was cancelled, and a failover may take it back`,
    {
      suggestions: ['tabib cluster diagnose'],
      ref: 'runbooks/billing/fm-01-postgres-primary-down.md',
      // What has an Idempotency-Key may be asked again; of all else nobody knows.
      retryable: false,
    },
  )

const UNREACHABLE_STATES = new Set([
  // Ended by the server: idle for too long, in a transaction or out of one.
  '25P03',
  '57P05',
  '57P01',
  '57P02',
  '57P03',
  // Read-only after a failover, out of disk or memory, an error of the disk: not the statement's fault.
  '25006',
  '53000',
  '53100',
  '53200',
  '53400',
  '58000',
  '58030',
  '08000',
  '08001',
  '08003',
  '08004',
  '08006',
])
// Undefined table, function, column, schema.
const SCHEMA_MISSING_STATES = new Set(['42P01', '42883', '42703', '3F000'])
const UNAUTHORISED_STATES = new Set(['28000', '28P01', '42501'])

function translate(cause: unknown, where: string): unknown {
  if (cause instanceof TabibError || !(cause instanceof Error)) return cause
  const code = (cause as { code?: string }).code
  if (code !== undefined && UNAUTHORISED_STATES.has(code)) {
    return new TabibError('NOT_AUTHORISED', `Postgres at ${where} refused: ${cause.message}`, {
      cause,
      suggestions: ['tabib migrate status'],
    })
  }
  if (code !== undefined && SCHEMA_MISSING_STATES.has(code)) {
    return new TabibError(
      'MIGRATION_REQUIRED',
      `the database at ${where} lacks what this version reads: ${cause.message}`,
      {
        cause,
        suggestions: ['tabib migrate up'],
      },
    )
  }
  if (code === '53300' || EXHAUSTED.test(cause.message)) {
    return new TabibError(
      'POOL_EXHAUSTED',
      `no connection to Postgres at ${where} is free: ${cause.message}`,
      {
        cause,
        suggestions: ['tabib cluster pool', 'tabib status billing/FM-19'],
        ref: 'runbooks/billing/fm-19-connection-pool-exhausted.md',
      },
    )
  }
  if (code === '57014') {
    return new TabibError('TIMED_OUT', `Postgres at ${where}: ${cause.message}`, { cause, retryable: true })
  }
  if (code === '55P03') {
    return new TabibError('LOCKED', `Postgres at ${where}: ${cause.message}`, { cause, retryable: true })
  }
  const isServerError = cause instanceof pg.DatabaseError
  if (isServerError && !UNREACHABLE_STATES.has(code ?? '')) return cause
  const isWire =
    isServerError ||
    /^E[A-Z]+$/.test(code ?? '') ||
    /timeout|terminated|connection|socket|not queryable/i.test(cause.message)
  if (!isWire) return cause
  return new TabibError(
    'POSTGRES_UNREACHABLE',
    `Postgres at ${where} is unreachable: ${cause.message || code}`,
    {
      cause,
      suggestions: ['tabib migrate status', 'tabib status billing/FM-01'],
      ref: 'runbooks/billing/fm-01-postgres-primary-down.md',
    },
  )
}

/** `host:port/database` of a connection URL: what may be shown, without user or password. */
export function describeUrl(url: string): string {
  const urls = hostUrls(url)
  if (!urls.every((one) => URL.canParse(one))) return '(unreadable URL)'
  return `${urls.map((one) => new URL(one).host)}${new URL(urls[0]!).pathname}`
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined
  return () => {
    result ??= work()
    return result
  }
}
