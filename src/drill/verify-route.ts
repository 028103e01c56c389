import type { FastifyInstance } from 'fastify'
import type { Verifier } from '../domain/keys/verifier.ts'
import { EXIT, TabibError } from '../errors.ts'

/**
 * `GET /api/v1/keys/<purpose>/verify?typ=`: whether the bearer token holds, as a service that verifies would
 * find. 200 with its claims; 401 with the reason; 503 when nobody can tell.
 */
export function verifyRoute(server: FastifyInstance, verifier: Verifier): void {
  server.get<{ Querystring: { typ?: string } }>(
    `/api/v1/keys/${verifier.purpose}/verify`,
    async (request, reply) => {
      const token = request.headers.authorization?.replace(/^Bearer /i, '') ?? ''
      try {
        return await verifier.verify(token, { typ: request.query.typ ?? 'JWT' })
      } catch (error) {
        if (!(error instanceof TabibError)) throw error
        const { code, message, context } = error
        return reply
          .code(error.exitCode === EXIT.unauthorised ? 401 : 503)
          .header('www-authenticate', 'Bearer error="invalid_token"')
          .send({ code, message, ...context })
      }
    },
  )
}
