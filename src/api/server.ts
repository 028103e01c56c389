import { type FastifyInstance, fastify } from 'fastify'
import type { App } from '../app.ts'
import type { Verifier } from '../domain/keys/verifier.ts'
import type { Preflight } from '../domain/outbox/preflight.ts'
import { TabibError } from '../errors.ts'
import type { Fleet } from '../worker.ts'
import { billingRoutes } from './billing.ts'
import { communicationRoutes } from './communication.ts'
import { healthRoutes } from './health.ts'
import { keyRoutes } from './keys.ts'
import { metricsRoute } from './metrics.ts'
import { type SessionApi, sessionRoutes } from './sessions.ts'

export interface ApiServer extends AsyncDisposable {
  /** `http://127.0.0.1:9464` */
  readonly url: string
}

/**
 * Serves /livez, /readyz and /metrics of one process's workers, the key sets, and, where given, the API of sessions,
 * billing and communication, and further routes; port 0 takes any free one.
 *
 * @throws TabibError USAGE when the address cannot be listened on.
 */
export async function serve(
  app: App,
  fleet: Fleet,
  {
    host,
    port,
    sessions,
    verifiers = [],
    preflight,
    routes,
  }: {
    host: string
    port: number
    sessions?: SessionApi
    /** Where messages wait while Postgres takes no writes. */
    preflight?: Preflight | undefined
    /** Readiness waits for their keys. */
    verifiers?: readonly Verifier[]
    routes?: (server: FastifyInstance) => void
  },
): Promise<ApiServer> {
  const server = fastify({ forceCloseConnections: 'idle', bodyLimit: 16 * 1024 })
  healthRoutes(server, app, fleet, {
    verifiers: sessions ? [sessions, ...verifiers] : verifiers,
    worksWithoutPostgres: preflight !== undefined,
  })
  keyRoutes(server, app)
  routes?.(server)
  if (sessions) {
    sessionRoutes(server, app, sessions)
    billingRoutes(server, app, sessions.callers)
    communicationRoutes(server, app, { callers: sessions.callers, preflight })
  }
  await metricsRoute(server, app, fleet)
  try {
    const url = await server.listen({ host, port })
    return { url, [Symbol.asyncDispose]: () => server.close() }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new TabibError('USAGE', `cannot listen on ${host}:${port}: ${code}`, {
      cause,
      suggestions: ['the same command with --port 0'],
    })
  }
}
