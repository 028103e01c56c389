import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, inject } from 'vitest'
import { type ApiServer, serve } from '../../src/api/server.ts'
import { openSessionApi, type SessionApi } from '../../src/api/sessions.ts'
import { type App, createApp, createLogger } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { type RedisServer, startRedis } from '../../src/sandbox/servers/redis.ts'
import { makeTenant } from '../../src/sandbox/tenants.ts'
import { makeVisit, type Visit } from '../../src/sandbox/visit.ts'
import { startWorkers, thisInstance } from '../../src/worker.ts'
import { type TestDatabase, useDatabase } from './database.ts'

export interface ApiAnswer {
  status: number
  /** As it came, byte for byte. */
  text: string
  // biome-ignore lint/suspicious/noExplicitAny: an answer's body is what the test says of it
  body: any
  headers: Headers
}

export interface ApiWorld {
  readonly database: TestDatabase
  readonly app: App
  readonly redis: RedisServer
  /** The environment of a `tabib` that works on the same servers. */
  readonly env: Record<string, string>
  /** A tenant of its own that lacks nothing, with a live session and a service token. */
  visit(): Promise<Visit>
  /** POSTs a body (an object, or the text itself) with a key, if given, as the visit's service. */
  post(visit: Visit, path: string, body: unknown, key?: string): Promise<ApiAnswer>
}

/** The API of one process, on a database and a Redis of the test file's own. */
export function useApi(): ApiWorld {
  const database = useDatabase()
  let folder: string
  let app: App
  let redis: RedisServer
  let sessions: SessionApi
  let server: ApiServer
  let env: Record<string, string>
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tabib-api-'))
    redis = await startRedis()
    await writeFile(join(folder, 'secret'), 'kept in a file of its own', { mode: 0o600 })
    env = {
      TABIB_DATABASE_URL: database.url('tabib'),
      TABIB_NATS_URL: inject('natsUrl'),
      TABIB_REDIS_URL: redis.url,
      TABIB_KEY_STORE: `file:${join(folder, 'keys')}`,
      TABIB_KEY_STORE_SECRET_FILE: join(folder, 'secret'),
    }
    app = createApp(loadConfig({ env, cwd: folder }), { log: createLogger('silent') })
    await makeVisit({ ...systems(), service: database.service }, await makeTenant(app))
    sessions = await openSessionApi(app, 'test')
    server = await serve(app, startWorkers(app, [], thisInstance('test')), {
      host: '127.0.0.1',
      port: 0,
      sessions,
    })
  })
  afterAll(async () => {
    await server[Symbol.asyncDispose]()
    await sessions[Symbol.asyncDispose]()
    await app[Symbol.asyncDispose]()
    await redis[Symbol.asyncDispose]()
    await rm(folder, { recursive: true })
  })
  const systems = () => ({ db: app.db, nats: app.nats, keyStore: app.keyStore })
  return {
    database,
    get app() {
      return app
    },
    get redis() {
      return redis
    },
    get env() {
      return env
    },
    visit: async () => makeVisit({ ...systems(), service: database.service }, await makeTenant(app)),
    async post({ serviceToken, billingToken }, path, body, key) {
      const response = await fetch(`${server.url}/api/v1${path}`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${path.startsWith('/billing/') ? billingToken : serviceToken}`,
          'content-type': 'application/json',
          ...(key !== undefined && { 'idempotency-key': key }),
        },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      })
      const text = await response.text()
      return { status: response.status, text, body: JSON.parse(text), headers: response.headers }
    },
  }
}
