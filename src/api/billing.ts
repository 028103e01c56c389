import type { FastifyInstance } from 'fastify'
import * as z from 'zod'
import type { App } from '../app.ts'
import { openAnswerCache } from '../domain/idempotency/cache.ts'
import type { Call } from '../domain/idempotency/key.ts'
import { answerOnce, type Work } from '../domain/idempotency/once.ts'
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
  amountMinor: z.union([z.number(), z.string()]).transform(parseAmount),
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
  code: z.string().regex(/^[\w.:/-]{1,64}$/, 'the code of an item, such as CONSULT-REMOTE'),
})

/**
 * `POST /api/v1/billing/payments` and `POST /api/v1/billing/charges`, with a service token for billing, of the tenant, and an
 * Idempotency-Key: 201, once for a key, whatever happens on the way (docs/idempotency.md).
 */
export function billingRoutes(server: FastifyInstance, app: App, callers: Verifier): void {
  const cache = app.config.redisCacheUrl === undefined ? undefined : openAnswerCache(app.redis)
  refusingScope(server, app, (scope) => {
    const write = <T>(
      path: string,
      schema: z.ZodType<T>,
      work: (tx: Parameters<Work>[0], call: Call, asked: T) => ReturnType<Work>,
    ) =>
      scope.post(path, async (request, reply) => {
        const { tenantId } = await authenticateCaller(
          { verifier: callers },
          { token: bearerOf(request), audience: 'billing' },
        )
        const asked = parse(schema, request.body)
        const call = callOf(request, { service: 'billing', tenantId })
        if (call === undefined) throw keyMissing()
        const answered = await answerOnce({ db: app.db, cache }, call, (tx) => work(tx, call, asked)).catch(
          (error) => counted(app, error),
        )
        return send(reply, answered)
      })
    write(PAYMENT_PATH, paymentSchema, pay)
    write(CHARGE_PATH, chargeSchema, chargeOnce)
  })
}

const keyMissing = () =>
  new TabibError(
    'IDEMPOTENCY_KEY_MISSING',
    'this moves money: send an Idempotency-Key, a new one for each new request and the same one for its retries',
  )

/** Refusals are seen as a rate by who is on call. What cannot be counted is still refused for its own reason. */
async function counted(app: App, error: unknown): Promise<never> {
  await countRefusal(app.db, error).catch((err) => app.log.warn({ err }, 'a refusal was not counted'))
  throw error
}
