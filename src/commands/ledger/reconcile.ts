import { Args, Flags } from '@oclif/core'
import type { App } from '../../app.ts'
import { planned, severe, TabibCommand } from '../../command.ts'
import { type Account, findAccount } from '../../domain/ledger/account.ts'
import { BASES, type Duplicate, type DuplicateScope, findDuplicates } from '../../domain/ledger/duplicates.ts'
import { freezeOf, frozenAccounts, unfreezeAccount } from '../../domain/ledger/freeze.ts'
import {
  appliedReconciliation,
  applyReconciliation,
  planReconciliation,
  type Reconciliation,
} from '../../domain/ledger/reconcile.ts'
import { reverseDuplicates } from '../../domain/ledger/reverse-duplicates.ts'
import { callWitness } from '../../domain/ledger/witness.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'
import { details, mark, table } from '../../render.ts'

export default class LedgerReconcile extends TabibCommand<typeof LedgerReconcile> {
  static override summary = 'Mend the ledger by transactions that name the incident; nothing in it is edited.'
  static override description =
    `Explains what is wrong with an account, entry by entry, and makes up for it by one adjusting transaction; what that
explains is known from then on, and the account stays frozen unless --unfreeze is given. With --duplicates: reverses charges
and postings that repeat another one, by event, by session, by posting or by what they look like. Both want the consent of a
second person, who has read the plan.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --frozen --dry-run',
    '<%= config.bin %> <%= command.id %> <account> --apply <hash> --unfreeze --approval approval.jws --confirm <account> --reason "an amount was edited"',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --duplicates --dry-run',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --duplicates --apply <hash> --approval approval.jws --confirm herat-markaz --reason "retried by the queue"',
  ]
  static override args = {
    account: Args.string({ description: "the account's id" }),
  }
  static override flags = {
    frozen: Flags.boolean({
      default: false,
      exclusive: ['duplicates'],
      description: 'the one account that is frozen, instead of naming it',
    }),
    balance: Flags.string({
      helpValue: '<minor units>',
      exclusive: ['duplicates'],
      description: 'what the balance has to be, from a backup, where the ledger itself cannot tell',
    }),
    unfreeze: Flags.boolean({
      exclusive: ['duplicates'],
      description: 'let posts through again once the account verifies',
    }),
    duplicates: Flags.boolean({ description: 'find what was charged or posted twice, and reverse it' }),
    tenant: Flags.string({
      helpValue: '<tenant>',
      dependsOn: ['duplicates'],
      description: 'in all of its accounts: slug or id',
    }),
    by: Flags.option({ options: BASES, multiple: true, dependsOn: ['duplicates'] })({
      description: 'only what this shows; fingerprints may be right and want a look',
    }),
    except: Flags.string({
      multiple: true,
      helpValue: '<id>',
      dependsOn: ['duplicates'],
      description: 'not this charge or transaction: it is right',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { account: accountId } = this.args
    const { tenant: named, frozen, duplicates } = this.flags
    if ([accountId, named, frozen || undefined].filter((one) => one !== undefined).length !== 1) {
      throw new TabibError(
        'USAGE',
        `name one account, or ${duplicates ? 'a tenant with --tenant' : 'give --frozen'}`,
        { suggestions: ['tabib status billing/FM-07 --json'] },
      )
    }
    const balanceMinor = parseMinor(this.flags.balance)
    const app = await this.openApp()
    if (named !== undefined) {
      const { id: tenantId, slug } = await findTenant(app, named)
      return this.#reverseDuplicates(app, slug, { tenantId })
    }
    const account = accountId === undefined ? await onlyFrozen(app) : await findAccount(app, accountId)
    if (duplicates) return this.#reverseDuplicates(app, account.id, { accountId: account.id })
    return this.#mend(app, account, balanceMinor)
  }

  async #mend(app: App, account: Account, balanceMinor: bigint | undefined): Promise<void> {
    const { apply } = this.flags
    const freeze = await freezeOf(app.db, account)
    const before = apply === undefined ? undefined : await appliedReconciliation(app.db, account, apply)
    if (before) {
      this.succeed({
        result: { ...before, again: true, frozen: freeze !== undefined },
        text: () =>
          `${mark('ok')} applied before, by transaction ${before.transactionId}; nothing was changed` +
          (freeze ? `\n  tabib ledger unfreeze ${account.id}` : ''),
      })
      return
    }
    const witness = await callWitness(app, account, app.config.ledger.seals)
    const plan = await planReconciliation(app.db, account, witness, { balanceMinor })
    const hash = await this.settlePlan(plan, () => mendingText(plan))
    if (hash === undefined) return
    if (plan.faults.length === 0) {
      throw new TabibError('NOT_NEEDED', `account ${account.id} verifies: there is nothing to mend`, {
        suggestions: freeze
          ? [`tabib ledger unfreeze ${account.id} --confirm ${account.id} --reason "<why>"`]
          : [],
      })
    }
    this.note(mendingText(plan))
    const { reason } = await this.confirmSevere(
      this.flags.frozen ? 'frozen' : account.id,
      `Reconciling ledger account ${account.id}`,
    )
    const target = `account:${account.id}`
    const result = await this.mutateAlone(
      target,
      {
        targets: [target],
        planHash: hash,
        reason,
        incident: freeze?.incidentId,
        failureMode: 'billing/FM-07',
        tenantCount: 1,
      },
      async () => {
        const applied = await applyReconciliation(app, plan, witness, { balanceMinor })
        if (!this.flags.unfreeze) return { ...applied, unfrozen: false }
        const { unfrozen } = await unfreezeAccount(app, account, witness, { by: this.actor, reason })
        return { ...applied, unfrozen }
      },
      { twoPeople: true },
    )
    this.succeed({
      result: { plan, planHash: hash, ...result, again: false },
      text: () =>
        `${mark('ok')} ${account.id} verifies; transaction ${result.transactionId} of incident ${result.incidentId}; ` +
        (result.unfrozen ? 'it takes posts again' : 'it is still frozen'),
    })
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

async function onlyFrozen(app: App): Promise<Account> {
  const frozen = await frozenAccounts(app)
  if (frozen.length === 1) return findAccount(app, frozen[0]!.accountId)
  if (frozen.length === 0) throw new TabibError('NOT_NEEDED', 'no ledger account is frozen')
  const all = frozen.map(({ accountId }) => accountId)
  throw new TabibError('USAGE', `${all.length} accounts are frozen, name one at a time: ${all.join(', ')}`, {
    suggestions: all.map((one) => `tabib ledger reconcile ${one} --dry-run`),
  })
}

function parseMinor(text: string | undefined): bigint | undefined {
  if (text === undefined) return undefined
  if (/^-?\d{1,19}$/.test(text) && BigInt.asIntN(64, BigInt(text)) === BigInt(text)) return BigInt(text)
  throw new TabibError(
    'AMOUNT_INVALID',
    `--balance "${text}" is not a whole number of minor units of 64 bits`,
  )
}

function mendingText(plan: Reconciliation): string {
  const { account, faults, adjustmentMinor, against } = plan
  if (faults.length === 0) return `${mark('ok')} ${account.id} verifies: there is nothing to mend`
  const money = (amountMinor: bigint) => `${amountMinor} (minor units of ${account.currency})`
  return [
    details({
      account: `${account.id}, ${account.code}`,
      balance: money(plan.balanceMinor),
      'sum of entries': money(plan.entriesMinor),
      'has to be': `${money(plan.postedMinor)}: ${plan.because}`,
      adjustment:
        against === null
          ? 'no amount: one entry notes what was found, and the balance is taken from the entries again'
          : `${money(adjustmentMinor)} against ${against}`,
    }),
    ...faults.map(({ says }) => `${mark('failed')} ${says}`),
  ].join('\n')
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
