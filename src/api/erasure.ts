import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import * as z from 'zod'
import type { App } from '../app.ts'
import { acceptApproval } from '../domain/approval/accept.ts'
import { auditOperation } from '../domain/audit/operation.ts'
import { acceptOrder, orderDigest, verifyOrder } from '../domain/erasure/order.ts'
import { tryToRemember } from '../domain/erasure/remember.ts'
import { TabibError } from '../errors.ts'
import { parse, refusingScope } from './answer.ts'

/** Where a service hands in an order to erase, by POST. */
export const ERASURE_PATH = '/api/v1/erasures'

const bodySchema = z.strictObject({
  order: z.string().max(8_192),
  /** Another operator's consent to the order's digest, where the context wants two people. */
  approval: z.string().max(8_192).optional(),
})

/**
 * `POST /api/v1/erasures` with an order that a registered operator or service signed: its signature is what lets it in.
 * 202 with the request; whatever is refused is in the audit trail too (docs/erasure.md).
 */
export function erasureRoutes(server: FastifyInstance, app: App, { version }: { version: string }): void {
  refusingScope(server, app, (scope) => {
    scope.post(ERASURE_PATH, async (request, reply) => {
      const { order, approval } = parse(bodySchema, request.body)
      const opened = await handIn(app, { order, approval, version })
      await tryToRemember(app)
      return reply.code(202).header('cache-control', 'no-store').send(opened)
    })
  })
}

async function handIn(
  app: App,
  { order, approval, version }: { order: string; approval: string | undefined; version: string },
) {
  const { db } = app
  const { context, erasure } = app.config
  const { authorities } = erasure
  const runId = randomUUID()
  const signer = await verifyOrder({ db }, { order, context, authorities }).catch((error: unknown) => error)
  const isSigned = !(signer instanceof Error)
  // What is not proved is not written down as if it were.
  const actor = isSigned ? (signer as { iss: string }).iss : 'unknown'
  const planHash = orderDigest(order)
  const operation = {
    ...{ runId, actor, context, version, planHash, failureMode: 'communication/C15' },
    ...{ command: `POST ${ERASURE_PATH}`, argsRedacted: [], targets: [`erasure-order:${planHash}`] },
  }
  return auditOperation(db, operation, async () => {
    if (!isSigned) throw signer
    if (approval !== undefined) await acceptApproval({ db }, { approval, planHash, context, actor, runId })
    else if (app.config.approvalsRequired) {
      throw new TabibError(
        'APPROVAL_REQUIRED',
        `the context "${context}" wants another operator's approval`,
        {
          suggestions: [`tabib approval create ${planHash} --reason "<why>" --file approval.jws`],
        },
      )
    }
    return acceptOrder({ db, secret: await app.erasureSecret() }, { order, context, authorities })
  })
}
