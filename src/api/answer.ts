import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import * as z from 'zod'
import type { App } from '../app.ts'
import { type Call, fingerprintOf, parseKey } from '../domain/idempotency/key.ts'
import type { Answered } from '../domain/idempotency/once.ts'
import { type ErrorCode, TabibError } from '../errors.ts'
import { parseExactJson } from './exact-json.ts'

/** The bearer token of a request. @throws TabibError TOKEN_INVALID when there is none. */
export function bearerOf(request: FastifyRequest): string {
  const token = /^Bearer ([\w.-]+)$/i.exec(request.headers.authorization ?? '')?.[1]
  if (token !== undefined) return token
  throw new TabibError('TOKEN_INVALID', 'a bearer token is wanted', { context: { reason: 'malformed' } })
}

/** What a request says, in the shape that is wanted. @throws TabibError USAGE with everything that is wrong. */
export function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw new TabibError('USAGE', z.prettifyError(parsed.error))
}

/** A write as its Idempotency-Key names it; undefined where the request has none. Only once its body was parsed. */
export function callOf(
  request: FastifyRequest,
  { service, tenantId, secret = false }: Pick<Call, 'service' | 'tenantId' | 'secret'>,
): Call | undefined {
  const key = parseKey(request.headers['idempotency-key'])
  if (key === undefined) return undefined
  const route = `${request.method} ${request.routeOptions.url}`
  return { service, tenantId, route, key, secret, fingerprint: fingerprintOf(request.params, request.body) }
}

/** Sends what was answered, marked when it was answered before. */
export function send(reply: FastifyReply, { status, body, replayed }: Answered): FastifyReply {
  if (replayed) reply.header('idempotency-replayed', 'true')
  return reply.code(status).header('cache-control', 'no-store').type('application/json').send(body)
}

/** Registers routes whose refusals are `{ statusCode, code, message }`. */
export function refusingScope(
  server: FastifyInstance,
  app: App,
  routes: (scope: FastifyInstance) => void,
): void {
  void server.register(async (scope) => {
    scope.setErrorHandler((error, request, reply) => refuse(app, error, request, reply))
    scope.addContentTypeParser('application/json', { parseAs: 'string' }, async (_: unknown, body: string) =>
      parseExactJson(body),
    )
    routes(scope)
  })
}

/** Answers with an error's status, code and message. */
export function answer(reply: FastifyReply, error: TabibError, links: object = {}): FastifyReply {
  const { code, message, context } = error
  const statusCode = Number(context.statusCode ?? STATUS[code])
  if (statusCode === 401) reply.header('www-authenticate', 'Bearer error="invalid_token"')
  if (statusCode === 503) reply.header('retry-after', '5')
  if (code === 'REQUEST_IN_PROGRESS') reply.header('retry-after', '1')
  return reply
    .code(statusCode)
    .header('cache-control', 'no-store')
    .send({ statusCode, code, message: statusCode === 503 ? LATER : message, ...links })
}

const STATUS: Partial<Record<ErrorCode, number>> = {
  USAGE: 400,
  IDEMPOTENCY_KEY_MISSING: 400,
  IDEMPOTENCY_KEY_INVALID: 400,
  AMOUNT_INVALID: 400,
  CURRENCY_NOT_SET: 400,
  TOKEN_EXPIRED: 401,
  TOKEN_INVALID: 401,
  ERASURE_ORDER_INVALID: 403,
  APPROVAL_INVALID: 403,
  APPROVAL_REQUIRED: 403,
  ACCOUNT_UNKNOWN: 404,
  NOT_FOUND: 404,
  SUBJECT_ERASED: 410,
  NOT_NEEDED: 409,
  SESSION_ENDED: 409,
  ACCOUNT_FROZEN: 409,
  LEDGER_DRIFT: 409,
  REQUEST_IN_PROGRESS: 409,
  BALANCE_OVERFLOW: 422,
  BUSINESS_KEY_TAKEN: 422,
  CURRENCY_MISMATCH: 422,
  IDEMPOTENCY_KEY_REUSED: 422,
  PRICE_NOT_FOUND: 422,
  KEYS_UNAVAILABLE: 503,
  KEY_STORE_UNREACHABLE: 503,
  POSTGRES_UNREACHABLE: 503,
  POOL_EXHAUSTED: 503,
  NOT_REPLICATED: 503,
  PREFLIGHT_FULL: 503,
}

/** What is away, and why, is for operators: in the log and in `tabib status`. */
const LATER = 'this cannot be done now; ask again later, under the same Idempotency-Key if there was one'

function refuse(app: App, thrown: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  // What Fastify itself refuses (no JSON, a body too large) brings its status with it.
  const { statusCode = 500 } = thrown as { statusCode?: number }
  const error =
    statusCode < 500
      ? new TabibError('USAGE', (thrown as Error).message, { context: { statusCode } })
      : thrown
  if (error instanceof TabibError && error.code in STATUS) return answer(reply, error)
  app.log.error({ err: error, route: request.routeOptions.url }, 'a request failed')
  return reply.code(500).send({ statusCode: 500, code: 'BUG', message: 'the request failed' })
}
