import type { FastifyInstance } from 'fastify'
import * as z from 'zod'
import type { App } from '../app.ts'
import { answeredBefore, answerOnce, type Work } from '../domain/idempotency/once.ts'
import { keysKeptIn } from '../domain/keys/kept-keys.ts'
import { publishedKeys } from '../domain/keys/key-set.ts'
import { openVerifier, type Verifier } from '../domain/keys/verifier.ts'
import { admit } from '../domain/sessions/admit.ts'
import { authenticateCaller, SERVICE_TOKEN } from '../domain/sessions/caller.ts'
import { JOIN_TOKEN, prepareJoinToken, recordJoinToken } from '../domain/sessions/join-token.ts'
import { openTally, type Tally } from '../domain/sessions/tally.ts'
import { asTenant } from '../domain/sessions/tenant.ts'
import { TabibError } from '../errors.ts'
import { answer, bearerOf, callOf, parse, refusingScope, send } from './answer.ts'

/** What the routes of sessions share: who verifies, and who counts. */
export interface SessionApi extends AsyncDisposable {
  readonly callers: Verifier
  readonly joins: Verifier
  readonly tally: Tally
  /** Why no request can be answered yet, in words; empty when every published key is held and proved. */
  lacks(): string[]
}

/**
 * Where messages wait while Postgres is away, the keys are kept that verify their senders, for a process that starts then.
 *
 * @param instance names this replica, and stays the same when it is started again in its place.
 */
export async function openSessionApi(app: App, instance: string): Promise<SessionApi> {
  const { db, config } = app
  const { preflight } = config.outbox
  const open = ({ purpose }: { purpose: string }) =>
    openVerifier({
      purpose,
      load: () => publishedKeys(app, { purpose }),
      attest: { db, instance },
      kept: preflight && keysKeptIn(preflight.folder, purpose),
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
 * `POST …/sessions/:id/join-token` with `{ participantId }` and a service token of the tenant: 201 with a token, and with
 * an Idempotency-Key the same one for 24 hours.
 * `POST …/sessions/:id/join` with a join token as bearer: 200 with who was let in; 401 `TOKEN_EXPIRED` has the link that
 * gives another. It looks at the token each time, and so takes no Idempotency-Key into account.
 */
export function sessionRoutes(
  server: FastifyInstance,
  app: App,
  { callers, joins, tally }: SessionApi,
): void {
  refusingScope(server, app, (scope) => {
    scope.post(`${PATH}/join-token`, async (request, reply) => {
      const { tenantId } = await authenticateCaller(
        { verifier: callers },
        { token: bearerOf(request), audience: 'virtual-care' },
      )
      const { id: sessionId } = parse(paramsSchema, request.params)
      const { participantId } = parse(askSchema, request.body)
      const seat = { tenantId, sessionId, participantId }
      const systems = { db: app.db, keyStore: app.keyStore, tally }
      const call = callOf(request, { service: 'virtual-care', tenantId, secret: true })
      const before = call && (await answeredBefore(app, call))
      if (before) return send(reply, before)
      // Signed first: until it is recorded it opens nothing, and a transaction does not wait for a KMS.
      const signed = await prepareJoinToken(systems, seat)
      const issued: Work = async (tx) => {
        const { token, expiresAt } = signed
        await recordJoinToken(tx, signed, seat)
        return { status: 201, body: JSON.stringify({ token, expiresAt }) }
      }
      const answered = call
        ? await answerOnce({ db: app.db }, call, issued)
        : { ...(await asTenant(app.db, tenantId, issued)), replayed: false }
      if (!answered.replayed) tally.count('issued', signed.kid)
      return send(reply, answered)
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
