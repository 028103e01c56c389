import { Flags } from '@oclif/core'
import type { App } from '../../app.ts'
import { planned, severe, TabibCommand } from '../../command.ts'
import { acceptOrder, assertAuthority, createOrder, verifyOrder } from '../../domain/erasure/order.ts'
import { NOT_REMEMBERED, tryToRemember } from '../../domain/erasure/remember.ts'
import { planRequest, type RequestPlan } from '../../domain/erasure/request.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'
import { patientFlag } from '../../flags.ts'
import { details, mark } from '../../render.ts'
import { readTextFile } from '../../text-file.ts'

export default class ErasureRequest extends TabibCommand<typeof ErasureRequest> {
  static override summary =
    'Order the erasure of a patient everywhere, or hand in an order that a service signed.'
  static override description =
    `Signs the order with your own key, registered (operator add) under a name that stands in erasure.authorities, and opens the
request. From then on the erasure-replay worker sees to it that every participant erases and acknowledges, until nothing is
left when it is read again 24 hours later. The patient is named by a keyed hash everywhere else: type that name to confirm; --dry-run prints it.

A refused order is in the audit trail: one that is forged, of somebody unknown, too old, used before, or for a patient whom
the tenant does not have.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --patient <id> --dry-run',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --patient <id> --confirm <subject> --reason "asked in writing"',
    '<%= config.bin %> <%= command.id %> --order order.jws --confirm <subject> --reason "from the patient portal"',
  ]
  static override flags = {
    tenant: Flags.string({
      helpValue: '<tenant>',
      description: 'whose patient it is: slug or id',
      exclusive: ['order'],
    }),
    patient: patientFlag({ exclusive: ['order'] }),
    order: Flags.string({
      helpValue: '<file>',
      description: 'an order that somebody else signed: a JWS; - for stdin',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const { subjectId, plan, order } = await this.#asked(app).catch((error) => this.#refuse(error))
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    this.note(planText(plan))
    const { reason } = await this.confirmSevere(plan.subject, `Erasing ${plan.subject}`)
    const target = `erasure:${plan.subject}`
    const result = await this.mutateAlone(
      target,
      { targets: [target], planHash: hash, reason, failureMode: 'communication/C15' },
      async () => {
        const { context, erasure } = app.config
        const { tenantId } = plan
        const signed =
          order ??
          (await createOrder(
            { db: app.db, keyStore: app.operatorKeyStore },
            { operator: this.actor, tenantId, subjectId, context },
          ))
        const rules = { context, authorities: erasure.authorities }
        return acceptOrder({ db: app.db, secret: await app.erasureSecret() }, { order: signed, ...rules })
      },
    )
    const remembered = await tryToRemember(app)
    this.succeed({
      result,
      warnings: remembered ? [] : [NOT_REMEMBERED],
      text: () =>
        [
          `${mark('ok')} request ${result.requestId}: ${result.subject} is erased until ${result.deadlineAt.toISOString()} at the latest`,
          ...(result.held.length > 0 ? [`a legal hold keeps what ${result.held.join(', ')} has`] : []),
          `tabib erasure list ${result.requestId}`,
        ].join('\n'),
    })
  }

  async #asked(app: App): Promise<{ subjectId: string; plan: RequestPlan; order: string | undefined }> {
    const { tenant, patient: subjectId, order: file } = this.flags
    const secret = await app.erasureSecret()
    if (file !== undefined) {
      const order = await readTextFile(file)
      const { context, erasure } = app.config
      const { authorities } = erasure
      const { tenantId, subjectId } = await verifyOrder(app, { order, context, authorities })
      return { subjectId, order, plan: await planRequest({ db: app.db, secret }, { tenantId, subjectId }) }
    }
    if (tenant === undefined || subjectId === undefined) {
      throw new TabibError('USAGE', 'name the tenant and the patient, or give --order')
    }
    assertAuthority(this.actor, app.config.erasure.authorities)
    const { id: tenantId } = await findTenant(app, tenant)
    const plan = await planRequest({ db: app.db, secret }, { tenantId, subjectId })
    return { subjectId, order: undefined, plan }
  }

  /** Whoever tries to erase whom they may not is written down, although nothing came of it. */
  async #refuse(error: unknown): Promise<never> {
    const isRefusal = error instanceof TabibError && REFUSALS.has(error.code)
    if (!isRefusal) throw error
    const reason = this.flags.reason
    return this.mutate(
      { targets: ['erasure'], ...(reason && { reason }), failureMode: 'communication/C15' },
      () => Promise.reject(error),
    )
  }
}

const REFUSALS = new Set(['ERASURE_ORDER_INVALID', 'NOT_FOUND', 'NOT_NEEDED', 'OPERATOR_UNPROVED'])

function planText({ subject, tenantId, rows, held }: RequestPlan): string {
  return details({
    erased: subject,
    tenant: tenantId,
    ...Object.fromEntries(
      Object.entries(rows).map(([participant, tables]) => [participant, foundText(tables)]),
    ),
    ...(held.length > 0 && { 'kept by a legal hold': held.join(', ') }),
  })
}

function foundText(tables: RequestPlan['rows'][string]): string {
  const found = Object.entries(tables).filter(([, n]) => n > 0)
  if (found.length > 0) return found.map(([table, n]) => `${table} ${n}`).join(', ')
  return Object.keys(tables).length > 0 ? 'nothing' : 'outside of Postgres, and looked at when it is erased'
}
