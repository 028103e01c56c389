import { fastify } from 'fastify'
import type { App } from '../app.ts'
import { TabibError } from '../errors.ts'
import type { Fleet } from '../worker.ts'
import { healthRoutes } from './health.ts'
import { keyRoutes } from './keys.ts'
import { metricsRoute } from './metrics.ts'

export interface ApiServer extends AsyncDisposable {
  /** `http://127.0.0.1:9464` */
  readonly url: string
}

/**
 * Serves /livez, /readyz and /metrics of one process's workers, and the key sets; port 0 takes any free one.
 *
 * @throws TabibError USAGE when the address cannot be listened on.
 */
export async function serve(
  app: App,
  fleet: Fleet,
  { host, port }: { host: string; port: number },
): Promise<ApiServer> {
  const server = fastify({ forceCloseConnections: true })
  healthRoutes(server, app, fleet)
  keyRoutes(server, app)
  await metricsRoute(server, app, fleet)
  try {
    const url = await server.listen({ host, port })
    return { url, [Symbol.asyncDispose]: () => server.close() }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new TabibError('USAGE', `cannot listen on ${host}:${port}: ${code}`, {
      cause,
      suggestions: ['tabib worker run --all --port 0'],
    })
  }
}
