import { randomUUID } from 'node:crypto'
import { hostname, userInfo } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { addOperator } from '../../domain/approval/operator.ts'
import { deliverPages } from '../../domain/incident/deliver.ts'
import { openAccount } from '../../domain/ledger/account.ts'
import { accountFaults } from '../../domain/ledger/faults.ts'
import { frozenAccounts } from '../../domain/ledger/freeze.ts'
import { postTransaction } from '../../domain/ledger/post.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

const SECOND = 'second@rehearsal'

interface Clinic extends AsyncDisposable {
  tenantId: string
  cash: string
  pages: Awaited<ReturnType<World['onCall']>>['pages']
  /** Posts between accounts that nothing is wrong with, since cash was frozen. */
  posted(): number
  post(debit: string, credit: string): Promise<string>
}

export default failureMode({
  id: 'billing/FM-07',
  kind: 'alert',
  title: "An account's balance is not the sum of its ledger entries",
  severity: 'page',
  detect: {
    // What does not verify is frozen, by the nightly verification or by hand.
    metric: 'billing_ledger_frozen_accounts',
    measure: async (app) => {
      const frozen = await frozenAccounts(app)
      return { value: frozen.length, evidence: { accounts: frozen.slice(0, 20) } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} ledger account${count === 1 ? ' does' : 's do'} not verify and take${count === 1 ? 's' : ''} no posts`
        : 'no ledger account is frozen',
    entails: [],
  },
  mitigate: {
    command: [
      ...['ledger', 'reconcile', '--frozen', '--unfreeze', '--approval', 'approval.jws'],
      ...['--confirm', 'frozen', '--reason', 'drift explained'],
    ],
  },
  drill: {
    // Somebody with the owner's rights edits an amount while a clinic is at work.
    inject: async (world) => {
      const phone = await world.onCall(async () => {})
      const tenantId = await world.tenant()
      const post = (debit: string, credit: string) =>
        asTenant(world.service, tenantId, async (tx) => {
          const account = (code: string) => openAccount(tx, { tenantId, code, currency: 'AFN' })
          const [accountId, from] = [await account(debit), await account(credit)]
          const entries = [
            { accountId, amountMinor: 50_000n, currency: 'AFN' },
            { accountId: from, amountMinor: -50_000n, currency: 'AFN' },
          ]
          await postTransaction(tx, { tenantId, kind: 'payment', businessKey: randomUUID(), entries })
          return accountId
        })
      const cash = await post('cash', 'revenue')
      await post('cash', 'revenue')
      await world.owner.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
        await tx.query('alter table billing.entry no force row level security, disable trigger user')
        await tx.query('update billing.entry set amount_minor = 90000 where account_id = $1 and seq = 2', [
          cash,
        ])
        await tx.query('alter table billing.entry force row level security, enable trigger user')
      })
      // Found again, it pages nobody again.
      for (let night = 0; night < 2; night += 1) {
        await world.tabib(['worker', 'run', 'ledger-integrity', '--once'])
        await deliverPages(world.app)
      }
      const atWork = new AbortController()
      let posted = 0
      const working = (async () => {
        for (; !atWork.signal.aborted; posted += 1) {
          await post('gateway:hesab', 'revenue')
          await delay(20)
        }
      })()
      const clinic: Clinic = {
        ...{ tenantId, cash, pages: phone.pages, post },
        posted: () => posted,
        async [Symbol.asyncDispose]() {
          atWork.abort()
          await working
        },
      }
      return clinic
    },
    // A second person reads the plan and approves it.
    relent: async (world) => {
      const keyStore = await world.app.operatorKeyStore()
      for (const name of [`${userInfo().username}@${hostname()}`, SECOND]) {
        const { publicJwk } = await keyStore.generate('EdDSA')
        await addOperator(world, { name, publicJwk, by: SECOND })
      }
      const { envelope } = await world.tabib(['ledger', 'reconcile', '--frozen', '--dry-run'])
      const { planHash } = (envelope as { result: { planHash: string } }).result
      const consent = [
        'approval',
        'create',
        planHash,
        '--reason',
        'entry 2 was edited',
        '--file',
        'approval.jws',
      ]
      await using approving = world.spawn(consent, { env: { TABIB_ACTOR: SECOND } })
      if ((await approving.exited) !== 0) throw new Error(`not approved: ${approving.stderr()}`)
    },
    verify: async (world, fault) => {
      const { tenantId, cash, pages, posted, post } = fault as unknown as Clinic
      const wentOn = posted()
      const faults = await accountFaults(world.db, { tenantId, id: cash })
      const [seen] = await world.db.query<{ amount: bigint; posted: bigint; balance: bigint; mends: number }>(
        `select (select amount_minor from billing.entry where account_id = $1 and seq = 2) as amount,
           (select 50000 * count(*) from billing.entry e join billing.journal_transaction t on t.id = e.transaction_id
            where e.account_id = $1 and t.kind = 'payment') as posted,
           (select balance_minor from billing.balance where account_id = $1) as balance,
           (select count(*)::int from billing.journal_transaction t join tabib.incident i on i.id = t.incident_id
            where i.mode = 'billing/FM-07' and t.kind = 'adjustment') as mends`,
        [cash],
      )
      const takesPosts = await post('cash', 'revenue').then(
        () => true,
        () => false,
      )
      return [
        ...(pages.length === 1 ? [] : [`pages: ${pages.map(({ title }) => title).join('; ')}`]),
        ...(wentOn > 0 ? [] : ['no other account was posted to meanwhile']),
        ...(faults.length === 0 ? [] : [`${faults.length} faults in the account`]),
        ...(seen!.balance === seen!.posted
          ? []
          : [`the balance is ${seen!.balance}, and ${seen!.posted} was posted`]),
        ...(seen!.amount === 90_000n ? [] : ['history was edited to mend it']),
        ...(seen!.mends === 1 ? [] : [`${seen!.mends} transactions mend it`]),
        ...(takesPosts ? [] : ['the account takes no posts']),
      ]
    },
  },
})
