import { Flags } from '@oclif/core'
import { severe, TabibCommand } from '../../command.ts'
import { reportFlags, timeFlag, waiversFlag } from '../../flags.ts'
import { mark } from '../../render.ts'

export default class LedgerVerify extends TabibCommand<typeof LedgerVerify> {
  static override summary = 'Find every account, entry and transaction that is not as it was posted.'
  static override description =
    `Compares each balance with its entries and with the last seal, which lies outside the database, and checks new entries
one by one. Of what is sealed a share is read again, all of it with --full, nothing with --quick. What is found is read twice before it is told.

As the nightly worker does, it freezes an account that does not add up, that account alone, pages once, and seals what
holds. --dry-run only looks. A run for an account, a tenant or a time seals nothing. --balances adds up every account and does
no more: seconds for millions of entries. See docs/ledger-integrity.md.`
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --full --dry-run --output junit',
    '<%= config.bin %> <%= command.id %> --account 0193e3a1-5f0e-7c11-9a52-6f1a2b3c4d5e',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --since 24h',
    '<%= config.bin %> <%= command.id %> --balances',
  ]
  static override flags = {
    account: Flags.string({ helpValue: '<id>', description: 'this account alone, every entry of it' }),
    tenant: Flags.string({ helpValue: '<slug or id>', description: "this tenant's accounts alone" }),
    since: timeFlag({ description: 'accounts alone that were posted to since then' }),
    full: Flags.boolean({ description: 'read everything that is sealed again, not a share of it' }),
    quick: Flags.boolean({ description: 'read nothing of what is sealed again', exclusive: ['full'] }),
    balances: Flags.boolean({
      description: 'only add up every account, without a seal',
      exclusive: ['account', 'tenant', 'since', 'full', 'quick', 'reseal'],
    }),
    'dry-run': Flags.boolean({ description: 'only look: freeze, page and seal nothing' }),
    reseal: Flags.boolean({
      description: 'seal what is there although the last seal is missing or not believed; cannot be undone',
      exclusive: ['dry-run', 'account', 'tenant', 'since'],
    }),
    ...reportFlags,
    waivers: waiversFlag,
    confirm: severe.confirm,
    reason: severe.reason,
  }

  async run(): Promise<void> {
    const { account, tenant, since, full, quick, balances, reseal, 'dry-run': dryRun } = this.flags
    const app = await this.openApp()
    const [
      { findAccount },
      { findTenant },
      { examineDuplicates, LEDGER_RULES },
      { verifyLedger },
      { examineDocuments },
      { stopDrift },
      { verifyBalances },
    ] = await Promise.all([
      import('../../domain/ledger/account.ts'),
      import('../../domain/tenants/find.ts'),
      import('../../domain/ledger/examine.ts'),
      import('../../domain/ledger/verify.ts'),
      import('../../domain/ledger/documents.ts'),
      import('../../domain/ledger/stop-drift.ts'),
      import('../../domain/ledger/balances.ts'),
    ])
    const scope = {
      accountId: account === undefined ? undefined : (await findAccount(app, account)).id,
      tenantId: tenant === undefined ? undefined : (await findTenant(app, tenant)).id,
      since,
      full,
      quick,
    }
    const folder = app.config.ledger.seals
    const { signal } = this
    const verify = async () => {
      const { findings, facts, last } = await verifyLedger(app, scope, {
        folder,
        seal: !dryRun,
        reseal,
        signal,
      })
      return { findings: [...findings, ...(await examineDocuments(app.db, scope, last))], facts }
    }
    const addUp = async () => ({ findings: await verifyBalances(app, { signal }), facts: {} })
    const { findings, facts } = reseal
      ? await this.mutate(
          {
            targets: ['ledger-seal'],
            ...(await this.confirmSevere('ledger-seal', 'Sealing the ledger as it is now')),
          },
          verify,
        )
      : await (balances ? addUp() : verify())
    if (!dryRun && findings.some(({ severity }) => severity === 'critical')) {
      const targets = [
        ...new Set(findings.flatMap(({ freezes }) => freezes.map(({ id }) => `account:${id}`))),
      ]
      const { frozen } = await this.mutate({ targets, failureMode: 'billing/FM-07' }, () =>
        stopDrift(app, findings),
      )
      for (const id of frozen) this.note(`${mark('failed')} account ${id} is frozen`)
    }
    await this.report({
      check: 'ledger verify',
      subject: account ?? tenant ?? app.config.context,
      version: this.config.version,
      rules: LEDGER_RULES.map((rule) => {
        if (balances && rule.id !== 'ledger/balance')
          return { ...rule, notRun: 'only balances were added up' }
        return folder === undefined && rule.category === 'seals'
          ? { ...rule, notRun: 'no folder of seals is configured' }
          : rule
      }),
      findings: [...findings, ...(balances ? [] : await examineDuplicates(app, scope))].map(
        ({ freezes: _, ...finding }) => finding,
      ),
      facts,
    })
  }
}
