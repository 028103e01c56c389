import { Args, Flags } from '@oclif/core'
import type { App } from '../../app.ts'
import { planned, severe, TabibCommand } from '../../command.ts'
import { findAccount } from '../../domain/ledger/account.ts'
import { BASES, type Duplicate, type DuplicateScope, findDuplicates } from '../../domain/ledger/duplicates.ts'
import { reverseDuplicates } from '../../domain/ledger/reverse-duplicates.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'
import { mark, table } from '../../render.ts'

export default class LedgerReconcile extends TabibCommand<typeof LedgerReconcile> {
  static override summary = 'Mend the ledger by transactions that name the incident; nothing in it is edited.'
  static override description =
    `With --duplicates: reverses charges and postings that repeat another one, by event, by session, by posting or by what
they look like. It wants the consent of a second person, who has read the plan.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --duplicates --dry-run',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --duplicates --apply <hash> --approval approval.jws --confirm herat-markaz --reason "retried by the queue"',
  ]
  static override args = {
    account: Args.string({ description: "the account's id" }),
  }
  static override flags = {
    duplicates: Flags.boolean({ description: 'find what was charged or posted twice, and reverse it' }),
    tenant: Flags.string({ helpValue: '<tenant>', description: 'in all of its accounts: slug or id' }),
    by: Flags.option({ options: BASES, multiple: true })({
      description: 'only what this shows; fingerprints may be right and want a look',
    }),
    except: Flags.string({
      multiple: true,
      helpValue: '<id>',
      description: 'not this charge or transaction: it is right',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { account: accountId } = this.args
    const { tenant: named } = this.flags
    if ((accountId === undefined) === (named === undefined)) {
      throw new TabibError('USAGE', 'name one account, or a tenant with --tenant')
    }
    const app = await this.openApp()
    if (named === undefined) {
      const { id } = await findAccount(app, accountId!)
      return this.#reverseDuplicates(app, id, { accountId: id })
    }
    const { id: tenantId, slug } = await findTenant(app, named)
    return this.#reverseDuplicates(app, slug, { tenantId })
  }

  async #reverseDuplicates(app: App, target: string, scope: DuplicateScope): Promise<void> {
    const { by = BASES, except = [] } = this.flags
    const found = await findDuplicates(app, scope)
    const unknown = except.find((id) => !found.some((one) => one.chargeId === id || one.transactionId === id))
    if (unknown !== undefined) {
      throw new TabibError(
        'NOT_FOUND',
        `"${unknown}" is no duplicate that was found, so it cannot be excepted`,
      )
    }
    const duplicates = found.filter(
      ({ basis, chargeId, transactionId }) =>
        by.includes(basis) && !except.includes(chargeId ?? '') && !except.includes(transactionId ?? ''),
    )
    const plan = { target, duplicates }
    const hash = await this.settlePlan(plan, () => planText(duplicates))
    if (hash === undefined) return
    if (duplicates.length === 0) {
      this.succeed({ result: { ...plan, reversed: [], failed: [] }, text: () => planText(duplicates) })
      return
    }
    this.note(planText(duplicates))
    const { reason } = await this.confirmSevere(target, `Reversing ${duplicates.length} duplicates`)
    const result = await this.mutateAlone(
      `ledger:${target}`,
      {
        targets: duplicates.map(({ chargeId, transactionId }) =>
          chargeId === null ? `transaction:${transactionId}` : `charge:${chargeId}`,
        ),
        planHash: hash,
        reason,
        failureMode: 'billing/FM-08',
        tenantCount: 1,
      },
      () => reverseDuplicates(app, duplicates, { severity: 'ticket' }),
      { twoPeople: true },
    )
    this.succeed({
      result: { ...plan, ...result },
      status: result.failed.length > 0 ? 'partial' : 'ok',
      text: () =>
        [
          `${mark('ok')} ${result.reversed.length} reversed, under incident ${result.reversed[0]?.incidentId ?? '-'}`,
          ...result.failed.map(
            ({ chargeId, transactionId, message }) =>
              `${mark('failed')} ${chargeId ?? transactionId}: ${message}`,
          ),
        ].join('\n'),
    })
  }
}

function planText(duplicates: readonly Duplicate[]): string {
  if (duplicates.length === 0) return `${mark('ok')} nothing was charged or posted twice`
  const rows = duplicates.map((one) => ({
    basis: one.certain ? one.basis : `${one.basis}?`,
    reverse: one.chargeId ?? one.transactionId,
    repeats: one.originalChargeId ?? one.originalTransactionId,
    amountMinor: one.amountMinor,
    currency: one.currency,
    at: one.at,
  }))
  const unsure = duplicates.some(({ certain }) => !certain)
  return [
    table(rows, ['basis', 'reverse', 'repeats', 'amountMinor', 'currency', 'at']),
    ...(unsure
      ? ['', 'With "?" both may be right: look before you approve, and take those out with --except <id>.']
      : []),
  ].join('\n')
}
