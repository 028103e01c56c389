import pg from 'pg'
import * as z from 'zod'
import { TabibError } from '../../errors.ts'
import { describeUrl } from '../postgres/client.ts'

/** One pool: the server connections of one database and login. */
export interface Pool {
  database: string
  user: string
  /** `session`, `transaction` or `statement`. */
  mode: string
  clientsActive: number
  /** Clients that want a server connection and have none. */
  clientsWaiting: number
  /** Server connections that a client has. */
  serversActive: number
  /** All that are open, whoever has them. */
  serversOpen: number
  /** How long the first in the queue has waited. */
  maxWaitS: number
}

/** What one database's clients did, as an average over pgbouncer's last `stats_period`. */
export interface PoolRate {
  database: string
  transactionsPerS: number
  /** How long a transaction keeps its server connection. */
  transactionS: number
  /** How long a transaction waited for one. */
  waitS: number
}

/** A database as pgbouncer has it configured. */
export interface PooledDatabase {
  name: string
  host: string | null
  port: number
  /** Its name on the server. */
  database: string
  /** Server connections of each login. */
  size: number
  /** Server connections of all logins together; 0 is no limit. */
  maxConnections: number
}

/** Who works behind a server process: pgbouncer connects in its own name. */
export interface PoolClient {
  /** The server process, as Postgres numbers it. */
  serverPid: number
  address: string
  application: string
}

export interface PoolerState {
  version: string
  pools: Pool[]
  rates: PoolRate[]
  databases: PooledDatabase[]
  settings: ReadonlyMap<string, string>
  clients: PoolClient[]
  /** Server processes of all pools, as Postgres numbers them. */
  serverPids: number[]
  /** Client connections that are open, of `max_client_conn`. */
  clientCount: number
}

/** pgbouncer's admin console, which reads alone (`stats_users` is enough). */
export interface PgBouncer {
  /**
   * All that it tells of itself.
   * @throws TabibError PGBOUNCER_UNREACHABLE when it does not answer in time or is no pgbouncer; NOT_AUTHORISED where it
   * does not know the login, or the login may not see the console.
   */
  read(): Promise<PoolerState>
  /** The pools alone; throws as `read` does. */
  pools(): Promise<Pool[]>
  /** `host:port` */
  readonly where: string
}

const figure = z.coerce.number()
const poolRows = z.array(
  z
    .object({
      database: z.string(),
      user: z.string(),
      pool_mode: z.string(),
      cl_active: figure,
      cl_waiting: figure,
      sv_active: figure,
      sv_idle: figure,
      sv_used: figure,
      sv_tested: figure,
      sv_login: figure,
      maxwait: figure,
      maxwait_us: figure.default(0),
    })
    .transform((row) => ({
      database: row.database,
      user: row.user,
      mode: row.pool_mode,
      clientsActive: row.cl_active,
      clientsWaiting: row.cl_waiting,
      serversActive: row.sv_active,
      serversOpen: row.sv_active + row.sv_idle + row.sv_used + row.sv_tested + row.sv_login,
      maxWaitS: row.maxwait + row.maxwait_us / 1e6,
    })),
)
const statRows = z.array(
  z.object({ database: z.string(), avg_xact_count: figure, avg_xact_time: figure, avg_wait_time: figure }),
)
const databaseRows = z.array(
  z.object({
    name: z.string(),
    host: z.string().nullable(),
    port: figure,
    database: z.string(),
    pool_size: figure,
    max_connections: figure,
  }),
)
const configRows = z.array(z.object({ key: z.string(), value: z.string().nullable() }))
const clientRows = z.array(
  z.object({ ptr: z.string(), addr: z.string(), application_name: z.string().nullable().default('') }),
)
const serverRows = z.array(z.object({ link: z.string().nullable(), remote_pid: figure }))

/** The console is a database of its own. */
const CONSOLE = 'pgbouncer'

/** The only client of pgbouncer's console: simple queries alone, which is all that it takes. Connects for each reading. */
export function openPgBouncer({ url, timeoutMs = 2_000 }: { url: string; timeoutMs?: number }): PgBouncer {
  const target = new URL(url)
  target.pathname = `/${CONSOLE}`
  const where = target.host
  const ask = async <T>(work: (show: Show) => Promise<T>): Promise<T> => {
    const client = new pg.Client({
      connectionString: target.href,
      connectionTimeoutMillis: timeoutMs,
      query_timeout: timeoutMs,
    })
    // Told by the failing query; without a listener it would end the process.
    client.on('error', () => {})
    try {
      await client.connect()
      return await work(async (what, rows) => rows.parse((await client.query(`show ${what}`)).rows))
    } catch (cause) {
      throw translate(cause, target)
    } finally {
      await client.end().catch(() => {})
    }
  }
  const ofPlatform = <R extends { database: string }>(rows: R[]) =>
    rows.filter(({ database }) => database !== CONSOLE)
  return {
    where,
    pools: () => ask(async (show) => ofPlatform(await show('pools', poolRows))),
    read: () =>
      ask(async (show) => {
        const [first] = await show('version', z.array(z.object({ version: z.string() })))
        const pools = ofPlatform(await show('pools', poolRows))
        const stats = ofPlatform(await show('stats', statRows))
        const databases = ofPlatform(await show('databases', databaseRows))
        const config = await show('config', configRows)
        const clients = await show('clients', clientRows)
        const servers = await show('servers', serverRows)
        const byPointer = new Map(clients.map((one) => [one.ptr, one]))
        return {
          version: /[\d.]+/.exec(first?.version ?? '')?.[0] ?? 'unknown',
          pools,
          rates: stats.map((row) => ({
            database: row.database,
            transactionsPerS: row.avg_xact_count,
            transactionS: row.avg_xact_time / 1e6,
            waitS: row.avg_wait_time / 1e6,
          })),
          databases: databases.map(({ pool_size: size, max_connections: maxConnections, ...row }) => ({
            ...row,
            size,
            maxConnections,
          })),
          settings: new Map(config.map(({ key, value }) => [key, value ?? ''])),
          clients: servers.flatMap(({ link, remote_pid: serverPid }) => {
            const client = byPointer.get(link ?? '')
            if (!client) return []
            return [{ serverPid, address: client.addr, application: client.application_name ?? '' }]
          }),
          serverPids: servers.map(({ remote_pid: pid }) => pid),
          clientCount: clients.length,
        }
      }),
  }
}

type Show = <T>(what: string, rows: z.ZodType<T>) => Promise<T>

function translate(cause: unknown, target: URL): TabibError {
  const { code, message } = cause as Error & { code?: string }
  const where = target.host
  const login = target.username || 'nobody'
  // pgbouncer has few codes of its own: its words tell more.
  if (/^28/.test(code ?? '') || /no such user|authentication failed|not allowed|auth failed/i.test(message)) {
    return new TabibError(
      'NOT_AUTHORISED',
      `pgbouncer at ${where} does not let ${login} see its console: ${message}`,
      {
        cause,
        suggestions: [
          `add ${login} to stats_users in pgbouncer.ini and to its auth_file, then RELOAD`,
          'docs/cluster.md',
        ],
      },
    )
  }
  const other = cause instanceof z.ZodError || code === '42704' || code === '3D000' || code === '42601'
  const why = other ? 'what answers there is no pgbouncer' : message || code
  return new TabibError('PGBOUNCER_UNREACHABLE', `pgbouncer at ${describeUrl(target.href)}: ${why}`, {
    cause,
    suggestions: [
      `psql -h ${target.hostname} -p ${target.port || 5432} -U ${login} ${CONSOLE} -c 'show pools'`,
    ],
    ref: 'runbooks/billing/fm-19-connection-pool-exhausted.md',
  })
}
