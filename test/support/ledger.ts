import { randomUUID } from 'node:crypto'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { beforeEach } from 'vitest'
import type { Database, Transaction } from '../../src/adapters/postgres/client.ts'
import { APPROVAL_TYPE } from '../../src/domain/approval/create.ts'
import { addOperator } from '../../src/domain/approval/operator.ts'
import { planHash } from '../../src/domain/audit/canonical-json.ts'
import { auditOperation } from '../../src/domain/audit/operation.ts'
import { openAccount } from '../../src/domain/ledger/account.ts'
import { type NewTransaction, postTransaction } from '../../src/domain/ledger/post.ts'
import { applyReconciliation, type Reconciliation } from '../../src/domain/ledger/reconcile.ts'
import type { Witness } from '../../src/domain/ledger/witness.ts'
import type { TestDatabase } from './database.ts'

/** Applies a plan as the command does: with the consent of a second person on record before it. */
export function applyApproved(
  database: TestDatabase,
  plan: Reconciliation,
  witness: Witness,
  given: { balanceMinor?: bigint } = {},
) {
  return withConsent(database.db, plan, () => applyReconciliation(database, plan, witness, given))
}

/** Does something with the consent of `maryam`, who signs for her registered key, on record before it. */
export async function withConsent<T>(db: Database, plan: object, work: () => Promise<T>): Promise<T> {
  const hash = planHash(plan)
  const who = { runId: randomUUID(), actor: 'laila', approver: 'maryam', context: 'env', version: '0' }
  const what = { command: 'ledger reconcile', argsRedacted: [], targets: [], planHash: hash }
  return auditOperation(db, { ...who, ...what, approval: await approvalOf(db, hash) }, work)
}

const pair = generateKeyPair('ES256', { extractable: true })

/** An approval of a plan by `maryam`; whoever says so registers her key. */
export async function approvalOf(db: Database, hash: string, { registers = true } = {}): Promise<string> {
  const { publicKey, privateKey } = await pair
  const publicJwk = { ...(await exportJWK(publicKey)), kid: 'maryam-1', alg: 'ES256' }
  if (registers) await addOperator({ db }, { name: 'maryam', publicJwk, by: 'test' })
  const claims = { iss: 'maryam', jti: randomUUID(), planHash: hash, context: 'env', reason: 'read it' }
  return new SignJWT(claims)
    .setProtectedHeader({ alg: 'ES256', kid: publicJwk.kid, typ: APPROVAL_TYPE })
    .setIssuedAt()
    .setExpirationTime('1h')
    .sign(privateKey)
}

/** A tenant of its own for each test, with the accounts `cash` and `revenue` in afghani. */
export function useLedger(database: TestDatabase) {
  const service = <T>(work: (tx: Transaction) => Promise<T>) =>
    database.service.transaction(async (tx) => {
      await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
      return work(tx)
    })
  const ledger = {
    tenantId: '',
    cash: '',
    revenue: '',
    /** In a service's transaction for the tenant. */
    service,
    open: (code: string, currency = 'AFN') =>
      service((tx) => openAccount(tx, { tenantId: ledger.tenantId, code, currency })),
    /** From `revenue` to `cash`. */
    transaction: (amountMinor: bigint, over: Partial<NewTransaction> = {}): NewTransaction => ({
      tenantId: ledger.tenantId,
      kind: 'payment',
      businessKey: randomUUID(),
      entries: [
        { accountId: ledger.cash, amountMinor, currency: 'AFN' },
        { accountId: ledger.revenue, amountMinor: -amountMinor, currency: 'AFN' },
      ],
      ...over,
    }),
    post: (amountMinor: bigint, over: Partial<NewTransaction> = {}) =>
      service((tx) => postTransaction(tx, ledger.transaction(amountMinor, over))),
    /** What somebody with the owner's rights can do: the triggers are off while `statement` runs for the tenant. */
    tamper: (statement: string, values: unknown[] = []) =>
      database.owner.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
        for (const table of ['entry', 'journal_transaction']) {
          await tx.query(`alter table billing.${table} no force row level security, disable trigger user`)
        }
        const rows = await tx.query(`${statement} returning *`, values)
        if (rows.length === 0) throw new Error(`changed nothing: ${statement}`)
        for (const table of ['entry', 'journal_transaction']) {
          await tx.query(`alter table billing.${table} force row level security, enable trigger user`)
        }
      }),
  }
  beforeEach(async () => {
    ledger.tenantId = randomUUID()
    await database.db.query(
      `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $1::uuid::text, 'Clinic', 'af', 'AFN')`,
      [ledger.tenantId],
    )
    ledger.cash = await ledger.open('cash')
    ledger.revenue = await ledger.open('revenue')
  })
  return ledger
}
