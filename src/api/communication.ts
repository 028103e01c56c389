import { randomUUID } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import * as z from 'zod'
import type { App } from '../app.ts'
import type { Verifier } from '../domain/keys/verifier.ts'
import { readDegraded } from '../domain/messaging/read-degraded.ts'
import { findMessage, MESSAGE_PATH, requestMessage } from '../domain/messaging/request-message.ts'
import type { Preflight } from '../domain/outbox/preflight.ts'
import { authenticateCaller } from '../domain/sessions/caller.ts'
import { TabibError } from '../errors.ts'
import { bearerOf, callOf, parse, refusingScope, send } from './answer.ts'

const messageSchema = z
  .strictObject({
    patientId: z.uuid(),
    channel: z.enum(['sms', 'push', 'email', 'in-app']),
    template: z
      .string()
      .regex(/^[a-z0-9][\w.-]{0,63}$/, 'the name of a template, such as appointment-reminder'),
    // What they may be the template says, and the guard looks at them before anything is sent.
    variables: z
      .record(z.string().regex(/^[a-zA-Z]{1,30}$/), z.union([z.string().max(200), z.number()]))
      .refine((variables) => Object.keys(variables).length <= 12, 'twelve at the most')
      .optional(),
    dueAt: z.iso.datetime({ offset: true }).optional(),
    expiresAt: z.iso.datetime({ offset: true }).optional(),
  })
  .refine(
    ({ dueAt = '0001-01-01T00:00:00Z', expiresAt }) =>
      expiresAt === undefined || Date.parse(expiresAt) > Date.parse(dueAt),
    { path: ['expiresAt'], message: 'must be after dueAt' },
  )
const paramsSchema = z.object({ id: z.uuid() })

/**
 * `POST /api/v1/communication/messages` with a service token for communication, of the tenant: 201, or 202 where it is kept outside Postgres
 * until that is back, in order and once for its Idempotency-Key. `GET …/messages/:id`: 200; while no primary answers, from
 * a replica, with `asOf`, and in the header `age` the seconds that it may be behind.
 */
export function communicationRoutes(
  server: FastifyInstance,
  app: App,
  { callers, preflight }: { callers: Verifier; preflight: Preflight | undefined },
): void {
  const caller = (request: FastifyRequest) =>
    authenticateCaller({ verifier: callers }, { token: bearerOf(request), audience: 'communication' })
  refusingScope(server, app, (scope) => {
    scope.post(MESSAGE_PATH, async (request, reply) => {
      const { tenantId } = await caller(request)
      const message = parse(messageSchema, request.body)
      if (request.headers['idempotency-key'] === undefined) {
        request.headers['idempotency-key'] = randomUUID()
      }
      const call = callOf(request, { service: 'communication', tenantId })!
      return send(
        reply,
        await requestMessage({ db: app.db, erasureSecret: app.erasureSecret, preflight }, call, message),
      )
    })

    scope.get(`${MESSAGE_PATH}/:id`, async (request, reply) => {
      const { tenantId } = await caller(request)
      const { id } = parse(paramsSchema, request.params)
      const { found, asOf, ageS } = await readDegraded(app, (db) => findMessage({ db }, { tenantId, id }))
      if (asOf !== undefined) reply.header('age', String(Math.ceil(ageS)))
      if (found) return reply.header('cache-control', 'no-store').send({ ...found, ...(asOf && { asOf }) })
      // It may have come since.
      if (asOf !== undefined)
        throw new TabibError('POSTGRES_UNREACHABLE', `a replica has no message ${id} yet`)
      throw new TabibError('NOT_FOUND', `the tenant has no message ${id}`)
    })
  })
}
