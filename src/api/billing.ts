import type { FastifyInstance, FastifyRequest } from 'fastify'
import * as z from 'zod'
import type { App } from '../app.ts'
import { openAnswerCache } from '../domain/idempotency/cache.ts'
import type { Call } from '../domain/idempotency/key.ts'
import { answerOnce } from '../domain/idempotency/once.ts'
import type { Verifier } from '../domain/keys/verifier.ts'
import { parseAmount } from '../domain/payments/amount.ts'
import { CHARGE_PATH, chargeOnce } from '../domain/payments/charge.ts'
import { PAYMENT_PATH, pay } from '../domain/payments/pay.ts'
import { countRefusal } from '../domain/payments/refusals.ts'
import { authenticateCaller } from '../domain/sessions/caller.ts'
import { TabibError } from '../errors.ts'
import { bearerOf, callOf, parse, refusingScope, send } from './answer.ts'

const paymentSchema = z.strictObject({
  accountId: z.uuid(),
  amountMinor: z.union([z.number(), z.string()]),
  currency: z.string().regex(/^[A-Z]{3}$/, 'an ISO 4217 code such as AFN'),
  method: z.string().regex(/^[a-z][a-z0-9-]{0,39}$/, '"cash", or the name of a payment gateway'),
  reference: z
    .string()
    .regex(/^[\w.:/-]{1,100}$/, 'a number of a receipt or of the gateway, without spaces')
    .optional(),
})

const chargeSchema = z.strictObject({
  patientId: z.uuid(),
  sessionId: z.uuid().optional(),
  code: z.string().min(1).max(100),
})

/**
 * `POST /api/v1/billing/payments` and `POST /api/v1/billing/charges`, with a service token of the tenant and an
 * Idempotency-Key: 201, once for a key, whatever happens on the way (docs/idempotency.md).
 */
export function billingRoutes(server: FastifyInstance, app: App, callers: Verifier): void {
  const cache = app.config.redisCacheUrl === undefined ? undefined : openAnswerCache(app.redis)
  const callFor = async (request: FastifyRequest): Promise<Call> => {
    const { tenantId } = await authenticateCaller({ verifier: callers }, { token: bearerOf(request) })
    const call = callOf(request, { service: 'billing', tenantId })
    if (call) return call
    throw new TabibError(
      'IDEMPOTENCY_KEY_MISSING',
      'this moves money: send an Idempotency-Key, a new one for each new request and the same one for its retries',
    )
  }
  refusingScope(server, app, (scope) => {
    scope.post(PAYMENT_PATH, async (request, reply) => {
      const call = await callFor(request)
      const { amountMinor, ...asked } = parse(paymentSchema, request.body)
      const payment = { ...asked, amountMinor: parseAmount(amountMinor) }
      const paid = await answerOnce({ db: app.db, cache }, call, (tx) => pay(tx, call, payment)).catch(
        (error) => counted(app, error),
      )
      return send(reply, paid)
    })

    scope.post(CHARGE_PATH, async (request, reply) => {
      const call = await callFor(request)
      const ask = parse(chargeSchema, request.body)
      const charged = await answerOnce({ db: app.db, cache }, call, (tx) => chargeOnce(tx, call, ask)).catch(
        (error) => counted(app, error),
      )
      return send(reply, charged)
    })
  })
}

/** Refusals are seen as a rate by who is on call. What cannot be counted is still refused for its own reason. */
async function counted(app: App, error: unknown): Promise<never> {
  await countRefusal(app.db, error).catch((err) => app.log.warn({ err }, 'a refusal was not counted'))
  throw error
}
