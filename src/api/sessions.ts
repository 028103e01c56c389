import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import * as z from 'zod'
import type { App } from '../app.ts'
import { publishedKeys } from '../domain/keys/key-set.ts'
import { openVerifier, type Verifier } from '../domain/keys/verifier.ts'
import { admit } from '../domain/sessions/admit.ts'
import { authenticateCaller, SERVICE_TOKEN } from '../domain/sessions/caller.ts'
import { issueJoinToken, JOIN_TOKEN } from '../domain/sessions/join-token.ts'
import { openTally, type Tally } from '../domain/sessions/tally.ts'
import { type ErrorCode, TabibError } from '../errors.ts'

/** What the routes of sessions share: who verifies, and who counts. */
export interface SessionApi extends AsyncDisposable {
  readonly callers: Verifier
  readonly joins: Verifier
  readonly tally: Tally
  /** Why no request can be answered yet, in words; empty when every published key is held and proved. */
  lacks(): string[]
}

/** @param instance names this replica, and stays the same when it is started again in its place. */
export async function openSessionApi(app: App, instance: string): Promise<SessionApi> {
  const { db, config } = app
  const open = ({ purpose }: { purpose: string }) =>
    openVerifier({
      purpose,
      load: () => publishedKeys(app, { purpose }),
      attest: { db, instance },
      ...(config.natsUrl === undefined ? {} : { nats: app.nats }),
    })
  const [callers, joins] = await Promise.all([open(SERVICE_TOKEN), open(JOIN_TOKEN)])
  const tally = openTally(app)
  return {
    callers,
    joins,
    tally,
    lacks: () => [...callers.lacks(), ...joins.lacks()],
    async [Symbol.asyncDispose]() {
      await Promise.all([callers, joins, tally].map((part) => part[Symbol.asyncDispose]()))
    },
  }
}

const PATH = '/api/v1/virtual-care/sessions/:id'
const paramsSchema = z.object({ id: z.uuid() })
const askSchema = z.strictObject({ participantId: z.uuid() })

/**
 * `POST …/sessions/:id/join-token` with `{ participantId }` and a service token of the tenant: 201 with a token.
 * `POST …/sessions/:id/join` with a join token as bearer: 200 with who was let in; 401 `TOKEN_EXPIRED` has the link that
 * gives another. Every refusal is `{ statusCode, code, message }`.
 */
export function sessionRoutes(
  server: FastifyInstance,
  app: App,
  { callers, joins, tally }: SessionApi,
): void {
  void server.register(async (scope) => {
    scope.setErrorHandler((error, request, reply) => refuse(app, error, request, reply))

    scope.post(`${PATH}/join-token`, async (request, reply) => {
      const { tenantId } = await authenticateCaller({ verifier: callers }, { token: bearerOf(request) })
      const { id: sessionId } = parse(paramsSchema, request.params)
      const { participantId } = parse(askSchema, request.body)
      const systems = { db: app.db, keyStore: app.keyStore, tally }
      const issued = await issueJoinToken(systems, { tenantId, sessionId, participantId })
      return reply.code(201).header('cache-control', 'no-store').send(issued)
    })

    scope.post(`${PATH}/join`, async (request, reply) => {
      const { id: sessionId } = parse(paramsSchema, request.params)
      try {
        const { kid: _, ...admission } = await admit(
          { db: app.db, verifier: joins, tally },
          { token: bearerOf(request), sessionId },
        )
        return reply.header('cache-control', 'no-store').send(admission)
      } catch (error) {
        if (!(error instanceof TabibError) || error.code !== 'TOKEN_EXPIRED') throw error
        const href = PATH.replace(':id', sessionId)
        return answer(reply, error, { refresh: { method: 'POST', href: `${href}/join-token` } })
      }
    })
  })
}

function bearerOf(request: FastifyRequest): string {
  const token = /^Bearer ([\w.-]+)$/i.exec(request.headers.authorization ?? '')?.[1]
  if (token !== undefined) return token
  throw new TabibError('TOKEN_INVALID', 'a bearer token is wanted', { context: { reason: 'malformed' } })
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw new TabibError('USAGE', z.prettifyError(parsed.error))
}

const STATUS: Partial<Record<ErrorCode, number>> = {
  USAGE: 400,
  TOKEN_EXPIRED: 401,
  TOKEN_INVALID: 401,
  NOT_FOUND: 404,
  SESSION_ENDED: 409,
  KEYS_UNAVAILABLE: 503,
  KEY_STORE_UNREACHABLE: 503,
  POSTGRES_UNREACHABLE: 503,
}

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

function answer(reply: FastifyReply, error: TabibError, links: object = {}): FastifyReply {
  const { code, message, context } = error
  const statusCode = Number(context.statusCode ?? STATUS[code])
  if (statusCode === 401) reply.header('www-authenticate', 'Bearer error="invalid_token"')
  if (statusCode === 503) reply.header('retry-after', '5')
  return reply
    .code(statusCode)
    .header('cache-control', 'no-store')
    .send({ statusCode, code, message: statusCode === 503 ? LATER : message, ...links })
}

/** What is away, and why, is for operators: in the log and in `tabib status`. */
const LATER = 'this cannot be done now; nothing was changed, ask again later'
