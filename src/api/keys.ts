import { createHash } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type { App } from '../app.ts'
import { publishedKeys } from '../domain/keys/key-set.ts'

/** Anything else is no purpose, and never asks Postgres. */
const PATH = '/api/v1/keys/:purpose(^[a-z][a-z0-9-]{0,39}$)/jwks.json'
/** For how long caches on the way may answer; a verifier that asks with `no-cache` passes them by. */
const MAX_AGE_S = 10

/**
 * `GET /api/v1/keys/:purpose/jwks.json`: the key set (RFC 7517), public members alone, with ETag. 404 when the purpose
 * never had a key; 503 when Postgres is away, and readers then go on with what they have.
 */
export function keyRoutes(server: FastifyInstance, app: App): void {
  server.get<{ Params: { purpose: string } }>(PATH, async (request, reply) => {
    const { purpose } = request.params
    const keySet = await publishedKeys(app, { purpose }).catch((error: unknown) => {
      app.log.warn({ err: error, purpose }, 'the key set could not be read')
      return undefined
    })
    if (keySet === undefined) {
      return reply.code(503).header('cache-control', 'no-store').header('retry-after', '5').send({
        code: 'POSTGRES_UNREACHABLE',
        message: 'the key set cannot be read now; go on with the last one',
      })
    }
    if (keySet.keys.length === 0 && keySet.revoked.length === 0) {
      return reply.code(404).header('cache-control', 'no-store').send({
        code: 'NOT_FOUND',
        message: 'no key of this purpose was ever published',
      })
    }
    const body = JSON.stringify(keySet)
    const etag = `"${createHash('sha256').update(body).digest('base64url')}"`
    reply.header('etag', etag).header('cache-control', `public, max-age=${MAX_AGE_S}`)
    if (request.headers['if-none-match'] === etag) return reply.code(304).send()
    return reply.type('application/jwk-set+json').send(body)
  })
}
