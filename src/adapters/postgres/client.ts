import pg from 'pg'
import { TabibError } from '../../errors.ts'
import { type CopiedRows, copyOut } from './copy-out.ts'

export type Row = Record<string, unknown>

/** Anything a statement can be sent to: the pool or an open transaction. */
export interface Queryable {
  /** Sends one parametrised statement and returns its rows. `name` makes it a prepared statement on its connection. */
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
}

// 64-bit integers come back as BigInt, numerics as text, timestamps as Date: a bigint never passes through a float.
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === 20
      ? BigInt
      : pg.types.getTypeParser(oid, format as 'text')) as pg.CustomTypesConfig['getTypeParser'],
}

/**
 * Opens a pool lazily: no socket until the first statement.
 *
 * @throws TabibError POSTGRES_UNREACHABLE when no connection can be made (safe to retry), NOT_AUTHORISED when the
 * server refuses the role or a privilege, LOCKED on a lock time-out, TIMED_OUT on the server's own for a statement. Other server errors pass through as pg's
 * `DatabaseError`, whose `code` is the SQLSTATE.
 */
export function openDatabase(options: DatabaseOptions): Database {
  const where = describeUrl(options.url)
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.applicationName ?? 'tabib',
    max: options.maxConnections ?? 8,
    connectionTimeoutMillis: options.connectTimeoutMs ?? 5_000,
    idleTimeoutMillis: 30_000,
    statement_timeout: options.statementTimeoutMs ?? 0,
    keepAlive: true,
    // A host that vanishes sends no farewell.
    keepAliveInitialDelayMillis: 10_000,
    ...(options.answerWithinMs === undefined ? {} : { query_timeout: options.answerWithinMs }),
    allowExitOnIdle: true,
    types,
  })
  // A pooled connection that dies while idle is replaced at the next query; the event must still be listened to.
  pool.on('error', () => {})

  const connect = async (): Promise<pg.PoolClient> => {
    try {
      return await pool.connect()
    } catch (cause) {
      throw translate(cause, where)
    }
  }
  const send = async <R extends object>(
    client: pg.Pool | pg.PoolClient,
    text: string,
    values?: unknown[],
    name?: string,
  ): Promise<R[]> => {
    try {
      const config: pg.QueryConfig = { text }
      if (values) config.values = values
      if (name) config.name = name
      return (await client.query(config)).rows as R[]
    } catch (cause) {
      throw translate(cause, where)
    }
  }

  const close = once(async () => pool.end())
  return {
    query: (text, values, name) => send(pool, text, values, name),
    async transaction(work) {
      const client = await connect()
      let broken: Error | undefined
      // Without a listener a connection that dies in mid-transaction would end the process.
      const onError = (error: Error) => {
        broken = error
      }
      client.on('error', onError)
      try {
        await send(client, 'begin')
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
            throw translate(cause, where)
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
  '53300',
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
  try {
    const { host, pathname } = new URL(url)
    return `${host}${pathname}`
  } catch {
    return '(unreadable URL)'
  }
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined
  return () => {
    result ??= work()
    return result
  }
}
