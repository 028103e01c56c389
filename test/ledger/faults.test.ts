import { createHash, randomUUID } from 'node:crypto'
import { cp, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeJwt, decodeProtectedHeader, generateKeyPair, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { type Database, openDatabase } from '../../src/adapters/postgres/client.ts'
import { openErasureSecret } from '../../src/domain/erasure/secret.ts'
import { rotateKeys } from '../../src/domain/keys/rotate.ts'
import { findAccount, openAccount } from '../../src/domain/ledger/account.ts'
import { verifyBalances } from '../../src/domain/ledger/balances.ts'
import { postTransaction } from '../../src/domain/ledger/post.ts'
import { applyReconciliation, planReconciliation } from '../../src/domain/ledger/reconcile.ts'
import { parseAccount, SEAL_KEY_POLICY, SEAL_PURPOSE } from '../../src/domain/ledger/seal.ts'
import { stopDrift } from '../../src/domain/ledger/stop-drift.ts'
import { type Verification, type VerifyOptions, verifyLedger } from '../../src/domain/ledger/verify.ts'
import { callWitness } from '../../src/domain/ledger/witness.ts'
import { runVerifications } from '../../src/drill/ledger-verifications.ts'
import type { SandboxRole } from '../../src/sandbox/servers/postgres.ts'
import { useKeyStore } from '../support/key-store.ts'
import { approvalOf, withConsent } from '../support/ledger.ts'
import { runJson } from '../support/line.ts'

const keys = useKeyStore()

/** One ledger for the file: sealed twice, then posted to again. Every fault is planted in a copy of it. */
const base = `ledger_${randomUUID().slice(0, 8)}`
let seals = ''
const urlAt = (role: SandboxRole, name: string) => inject('templateUrls')[role].replace(/[^/]+$/, name)
const at = (role: SandboxRole, name: string) => openDatabase({ url: urlAt(role, name), maxConnections: 2 })
const asAdmin = async (...statements: string[]) => {
  await using admin = openDatabase({ url: inject('adminUrl'), maxConnections: 1 })
  for (const statement of statements) await admin.query(statement)
}

const tenantId = randomUUID()
const post = (service: Database, amountMinor: bigint, to: string, businessKey: string, kind = 'transfer') =>
  service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    const entries = [
      { accountId: to, amountMinor, currency: 'AFN' },
      { accountId: revenue, amountMinor: -amountMinor, currency: 'AFN' },
    ]
    return (await postTransaction(tx, { tenantId, kind, businessKey, entries })).id
  })
let cash = ''
let revenue = ''
let idle = ''
/** Sealed, in the order of posting; entry n of `cash` is of the nth. */
const sealed: string[] = []
/** Entries 9 and 10 of `cash`: no seal covers them. */
const unsealed: string[] = []

const verify = (db: Database, folder: string, options: Partial<VerifyOptions> = {}, scope = {}) =>
  verifyLedger({ db, keyStore: async () => keys.store }, scope, { folder, ...options })

beforeAll(async () => {
  seals = await mkdtemp(join(tmpdir(), 'tabib-seals-'))
  await asAdmin(`create database ${base} owner tabib_owner template ${inject('template')}`)
  await using db = at('tabib', base)
  await using service = at('service', base)
  const nats = { notify: () => {}, ping: async () => {} }
  const signer = { db, nats: nats as never, keyStore: async () => keys.store }
  await rotateKeys(signer, { purpose: SEAL_PURPOSE, algorithm: 'ES256', policy: SEAL_KEY_POLICY, by: 'test' })
  await db.query(
    `insert into tabib.tenant (id, slug, name, region, currency) values ($1, 'clinic', 'Clinic', 'af', 'AFN')`,
    [tenantId],
  )
  ;[cash, revenue, idle] = (await service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    const open = (code: string) => openAccount(tx, { tenantId, code, currency: 'AFN' })
    return [await open('cash'), await open('revenue'), await open('receivable:idle')]
  })) as [string, string, string]
  await post(service, 700n, idle, 'idle-1')
  await post(service, 800n, idle, 'idle-2')
  for (const n of [1n, 2n, 3n, 4n]) sealed.push(await post(service, n * 100n, cash, `key-${n}`))
  expect((await verify(db, seals)).findings).toEqual([])
  for (const n of [5n, 6n, 7n, 8n]) sealed.push(await post(service, n * 100n, cash, `key-${n}`))
  // These are sealed in the order of posting alone.
  expect((await verify(db, seals, {}, { quick: true })).findings).toEqual([])
  for (const n of [9n, 10n]) unsealed.push(await post(service, n * 100n, cash, `key-${n}`))
})
afterAll(async () => {
  await asAdmin(`drop database ${base} with (force)`)
  await rm(seals, { recursive: true })
})

interface Copy {
  db: Database
  folder: string
  service: Database
  /** Of `db`. */
  url: string
  /** What somebody with every right over the tables does: triggers and row-level security are off meanwhile. */
  tamper(...statements: string[]): Promise<void>
}

async function inCopy<T>(work: (copy: Copy) => Promise<T>): Promise<T> {
  const name = `ruin_${randomUUID().slice(0, 8)}`
  // File by file, which takes half of what block by block through the log does.
  await asAdmin(`create database ${name} owner tabib_owner template ${base} strategy file_copy`)
  const folder = await mkdtemp(join(tmpdir(), 'tabib-seals-'))
  try {
    await cp(seals, folder, { recursive: true })
    await using db = at('tabib', name)
    await using owner = at('tabib_owner', name)
    await using service = at('service', name)
    const tamper = (...statements: string[]) =>
      owner.transaction(async (tx) => {
        const tables = ['entry', 'journal_transaction', 'balance', 'account', 'mended_fault']
        for (const table of tables) {
          await tx.query(`alter table billing.${table} disable trigger user, no force row level security`)
        }
        for (const statement of statements) {
          if (statement !== STOP) await tx.query(named(statement))
        }
        for (const table of statements.at(-1) === STOP ? [] : tables) {
          await tx.query(`alter table billing.${table} enable trigger user, force row level security`)
        }
      })
    return await work({ db, folder, service, url: urlAt('tabib', name), tamper })
  } finally {
    await asAdmin(`drop database ${name} with (force)`)
    await rm(folder, { recursive: true })
  }
}

/** `:cash`, `:sealed3` … as literals. */
const named = (sql: string) =>
  sql.replace(/:(cash|revenue|idle|tenant|sealed\d|unsealed\d)\b/g, (_, name: string) => {
    const nth = Number(name.at(-1))
    const value = name.startsWith('sealed')
      ? sealed[nth - 1]
      : name.startsWith('unsealed')
        ? unsealed[nth - 1]
        : { cash, revenue, idle, tenant: tenantId }[name]
    return `'${value}'`
  })

/** What was switched off stays so. */
const STOP = 'stop'
const entry = (account: string, seq: number) => `account_id = :${account} and seq = ${seq}`
/** Moves what follows from an edited entry along, so that nothing but the history itself is wrong. */
const carry = (account: string, after: number, by: number) =>
  `update billing.entry set balance_minor = balance_minor + ${by} where account_id = :${account} and seq > ${after}`
const balance = (account: string, by: number, seq = 0) =>
  `update billing.balance set balance_minor = balance_minor + ${by}, seq = seq + ${seq} where account_id = :${account}`

/** What the ledger knows of mended faults, as written by whoever tampers: `what` is check, transaction, expected, seen. */
const NOTED_AS_MENDED = (account: string, what: string) =>
  `insert into billing.mended_fault (tenant_id, account_id, transaction_id, check_name, of_transaction, expected, seen, mended_at)
   select :tenant, :${account}, :unsealed1, c, t::uuid, e, s, now() - interval '1 hour' from (values (${what})) as f(c, t, e, s)`
const APPROVED_SINCE = `insert into tabib.audit (seq, ts, run_id, prev_hash, hash, record)
  select 1, now(), gen_random_uuid(), sha256(''), sha256(''), '{"command":"ledger reconcile","outcome":"ok","approver":"x","planHash":"y","targets":[]}'`

const FORGED_PLAN = 'f'.repeat(64)
/** Signed by a key that no operator is registered with. */
const FORGED_APPROVAL = await approvalOf(undefined as never, FORGED_PLAN, { registers: false })
/** A reconciliation by one hand: transaction, note and the record of its approval. */
const FORGED_RECONCILIATION = (approval: string) => [
  balance('cash', 5, 1),
  `insert into billing.journal_transaction (tenant_id, id, kind, business_key, incident_id)
   values (:tenant, '018f0000-0000-7000-8000-00000000000b', 'adjustment', 'reconcile:${FORGED_PLAN}', gen_random_uuid())`,
  `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
   values (:tenant, :cash, 11, '018f0000-0000-7000-8000-00000000000b', 0, 'AFN', 5500)`,
  `insert into billing.mended_fault (tenant_id, account_id, transaction_id, check_name, expected, seen)
   values (:tenant, :cash, '018f0000-0000-7000-8000-00000000000b', 'balance', '5500', '5505')`,
  `insert into tabib.audit (seq, ts, run_id, prev_hash, hash, record)
   select 1, now(), gen_random_uuid(), sha256(''), sha256(''), jsonb_build_object('command', 'ledger reconcile',
     'phase', 'before', 'actor', 'laila', 'approver', 'maryam', 'context', 'env', 'planHash', '${FORGED_PLAN}',
     'approval', '${approval}', 'targets', '[]'::jsonb)`,
]

interface Fault {
  plant: string[]
  /** What must be found: rule, and the account or transaction with its entry. */
  finds: { id: string; of: string; seq?: number }[]
  /** Accounts that take no post afterwards. */
  freezes?: string[]
}

const FAULTS: Record<string, Fault> = {
  'a balance edited': {
    plant: [balance('cash', 5)],
    finds: [{ id: 'ledger/balance', of: ':cash' }],
    freezes: [':cash'],
  },
  'a sealed entry’s amount edited': {
    plant: [`update billing.entry set amount_minor = amount_minor + 5 where ${entry('cash', 3)}`],
    finds: [
      { id: 'ledger/running-balance', of: ':cash', seq: 3 },
      { id: 'ledger/sealed-entries', of: ':cash', seq: 3 },
    ],
  },
  'an unsealed entry’s amount edited': {
    plant: [`update billing.entry set amount_minor = amount_minor + 5 where ${entry('cash', 9)}`],
    finds: [{ id: 'ledger/running-balance', of: ':cash', seq: 9 }],
  },
  'an entry deleted in the middle': {
    plant: [`delete from billing.entry where ${entry('cash', 4)}`],
    finds: [{ id: 'ledger/sequence', of: ':cash', seq: 5 }],
  },
  'the sealed tail truncated, and the balance with it': {
    plant: [
      'delete from billing.entry where account_id = :cash and seq > 6',
      'update billing.balance set seq = 6, balance_minor = 2100 where account_id = :cash',
    ],
    finds: [{ id: 'ledger/sealed-tail', of: ':cash', seq: 7 }],
    freezes: [':cash'],
  },
  'the tail truncated whole: both sides, both balances and the transactions': {
    plant: [
      'create temp table gone on commit drop as select transaction_id from billing.entry where account_id = :cash and seq > 7',
      'delete from billing.entry where transaction_id in (table gone)',
      'delete from billing.journal_transaction where id in (table gone)',
      'update billing.balance b set (seq, balance_minor) = (select max(seq), sum(amount_minor) from billing.entry e where e.account_id = b.account_id)',
    ],
    finds: [
      { id: 'ledger/sealed-tail', of: ':cash', seq: 8 },
      { id: 'ledger/sealed-tail', of: ':revenue', seq: 10 },
    ],
  },
  'an entry inserted for a sealed transaction': {
    plant: [
      `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
       select tenant_id, account_id, 3, :sealed1, 50, 'AFN', 1550 from billing.entry where ${entry('idle', 1)}`,
      balance('idle', 50, 1),
    ],
    finds: [{ id: 'ledger/transaction', of: ':idle', seq: 3 }],
  },
  'two entries inserted for a sealed transaction, which stays balanced': {
    plant: [
      `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
       values (:tenant, :idle, 3, :sealed1, 50, 'AFN', 1550), (:tenant, :cash, 11, :sealed1, -50, 'AFN', 5450)`,
      balance('idle', 50, 1),
      balance('cash', -50, 1),
    ],
    finds: [
      { id: 'ledger/transaction', of: ':idle', seq: 3 },
      { id: 'ledger/transaction', of: ':cash', seq: 11 },
    ],
  },
  'an entry moved to another account': {
    plant: [
      `update billing.entry set account_id = :idle, seq = 3, balance_minor = 2300 where ${entry('cash', 8)}`,
      'update billing.entry set seq = seq - 1, balance_minor = balance_minor - 800 where account_id = :cash and seq > 8',
      balance('cash', -800, -1),
      balance('idle', 800, 1),
    ],
    finds: [
      { id: 'ledger/sealed-entries', of: ':cash', seq: 8 },
      { id: 'ledger/sealed-entries', of: ':idle', seq: 3 },
    ],
    freezes: [':cash', ':idle'],
  },
  'two edits that cancel': {
    plant: [
      `update billing.entry set amount_minor = amount_minor + 5 where ${entry('cash', 2)}`,
      `update billing.entry set amount_minor = amount_minor - 5 where ${entry('cash', 4)}`,
    ],
    finds: [
      { id: 'ledger/running-balance', of: ':cash', seq: 2 },
      { id: 'ledger/running-balance', of: ':cash', seq: 4 },
    ],
  },
  'two edits that cancel, with every balance and both sides of both transactions': {
    plant: [
      `update billing.entry set amount_minor = amount_minor + 5, balance_minor = balance_minor + 5 where ${entry('cash', 2)}`,
      'update billing.entry set balance_minor = balance_minor + 5 where account_id = :cash and seq = 3',
      `update billing.entry set amount_minor = amount_minor - 5 where ${entry('cash', 4)}`,
      `update billing.entry set amount_minor = amount_minor - 5, balance_minor = balance_minor - 5 where ${entry('revenue', 4)}`,
      'update billing.entry set balance_minor = balance_minor - 5 where account_id = :revenue and seq = 5',
      `update billing.entry set amount_minor = amount_minor + 5 where ${entry('revenue', 6)}`,
    ],
    finds: [
      { id: 'ledger/sealed-entries', of: ':cash', seq: 2 },
      { id: 'ledger/sealed-entries', of: ':cash', seq: 4 },
      { id: 'ledger/sealed-entries', of: ':revenue', seq: 4 },
      { id: 'ledger/sealed-entries', of: ':revenue', seq: 6 },
    ],
    freezes: [':cash', ':revenue'],
  },
  'a sequence gap': {
    plant: ['update billing.entry set seq = 12 where account_id = :cash and seq = 10', balance('cash', 0, 2)],
    finds: [{ id: 'ledger/sequence', of: ':cash', seq: 12 }],
  },
  'a sequence number used again': {
    plant: [
      'alter table billing.entry drop constraint entry_pkey',
      'update billing.entry set seq = 9 where account_id = :cash and seq = 10',
    ],
    finds: [{ id: 'ledger/sequence', of: ':cash', seq: 9 }],
  },
  'an unbalanced transaction': {
    plant: [
      `insert into billing.journal_transaction (tenant_id, id, kind, business_key) values (:tenant, '018f0000-0000-7000-8000-00000000000a', 'payment', 'odd')`,
      `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
       values (:tenant, :idle, 3, '018f0000-0000-7000-8000-00000000000a', 50, 'AFN', 1550)`,
      balance('idle', 50, 1),
    ],
    finds: [{ id: 'ledger/zero-sum', of: '018f0000-0000-7000-8000-00000000000a' }],
    freezes: [':idle'],
  },
  'history rewritten without a trace, and the record of seals with it': {
    plant: [
      `update billing.entry set amount_minor = amount_minor + 5, balance_minor = balance_minor + 5 where ${entry('cash', 6)}`,
      carry('cash', 6, 5),
      balance('cash', 5),
      `update billing.entry set amount_minor = amount_minor - 5, balance_minor = balance_minor - 5 where ${entry('revenue', 8)}`,
      carry('revenue', 8, -5),
      balance('revenue', -5),
      `update tabib.ledger_seal set digest = encode(sha256(digest::bytea), 'hex')`,
    ],
    finds: [
      { id: 'ledger/sealed-entries', of: ':cash', seq: 6 },
      { id: 'ledger/sealed-entries', of: ':revenue', seq: 8 },
      { id: 'ledger/seal', of: 'seals' },
    ],
  },
  'an account at rest drifted, entry and balance alike': {
    plant: [
      `update billing.entry set amount_minor = amount_minor + 5, balance_minor = balance_minor + 5 where ${entry('idle', 2)}`,
      balance('idle', 5),
    ],
    finds: [{ id: 'ledger/sealed-entries', of: ':idle', seq: 2 }],
  },
  'a currency edited': {
    plant: [`update billing.entry set currency = 'USD' where ${entry('cash', 3)}`],
    finds: [{ id: 'ledger/currency', of: ':cash', seq: 3 }],
    freezes: [':cash'],
  },
  'an account’s currency edited, with its entries': {
    plant: [
      `update billing.entry set currency = 'USD' where account_id in (:cash, :idle, :revenue)`,
      `update billing.account set currency = 'USD' where id in (:cash, :idle, :revenue)`,
    ],
    finds: [{ id: 'ledger/sealed-account', of: ':cash' }],
  },
  'an opening balance edited': {
    plant: ['update billing.account set opening_minor = 1000 where id = :idle'],
    finds: [{ id: 'ledger/sealed-account', of: ':idle' }],
    freezes: [':idle'],
  },
  'an account renamed': {
    plant: [`update billing.account set code = 'receivable:other' where id = :idle`],
    finds: [{ id: 'ledger/sealed-account', of: ':idle' }],
  },
  'an account deleted with all it had': {
    plant: [
      'delete from billing.entry where account_id = :idle',
      'delete from billing.balance where account_id = :idle',
      'delete from billing.account where id = :idle',
    ],
    finds: [{ id: 'ledger/sealed-account', of: ':idle' }],
    freezes: [':idle'],
  },
  'a balance deleted': {
    plant: [
      'alter table billing.entry drop constraint entry_tenant_id_account_id_fkey',
      'alter table billing.mended_fault drop constraint mended_fault_tenant_id_account_id_fkey',
      'delete from billing.balance where account_id = :idle',
    ],
    finds: [
      { id: 'ledger/sealed-account', of: ':idle' },
      { id: 'ledger/guards', of: 'guards' },
    ],
  },
  'a business key edited': {
    plant: [`update billing.journal_transaction set business_key = 'key-x' where id = :sealed3`],
    finds: [{ id: 'ledger/sealed-transactions', of: ':sealed3' }],
    freezes: [],
  },
  'a transaction marked as a reversal': {
    plant: ['update billing.journal_transaction set reverses = :sealed1 where id = :sealed2'],
    finds: [{ id: 'ledger/sealed-transactions', of: ':sealed2' }],
  },
  'a sealed transaction dated anew': {
    plant: [
      `update billing.journal_transaction set posted_at = posted_at - interval '40 days' where id = :sealed3`,
    ],
    finds: [{ id: 'ledger/sealed-transactions', of: ':sealed3' }],
  },
  'an unsealed transaction dated anew': {
    plant: [
      `update billing.journal_transaction set posted_at = posted_at - interval '40 days' where id = :unsealed1`,
    ],
    finds: [{ id: 'ledger/transaction', of: ':unsealed1' }],
  },
  'a sealed transaction whose xid was forged': {
    plant: [`update billing.journal_transaction set xid = pg_current_xact_id() where id = :sealed3`],
    finds: [{ id: 'ledger/transaction', of: ':sealed3' }],
  },
  'a transaction deleted from under its entries': {
    plant: [
      'alter table billing.entry drop constraint entry_tenant_id_transaction_id_fkey',
      'delete from billing.journal_transaction where id = :sealed5',
    ],
    finds: [
      { id: 'ledger/sealed-transactions', of: 'transactions' },
      { id: 'ledger/transaction', of: ':cash', seq: 5 },
    ],
  },
  'an entry dated anew': {
    plant: [`update billing.entry set posted_at = posted_at - interval '40 days' where ${entry('cash', 3)}`],
    finds: [{ id: 'ledger/sealed-entries', of: ':cash', seq: 3 }],
  },
  'entries dated in the future': {
    plant: [`update billing.entry set posted_at = now() + interval '20 hours' where ${entry('cash', 10)}`],
    finds: [{ id: 'ledger/time', of: ':cash', seq: 10 }],
  },
  'the entries of one transaction swapped between its accounts': {
    plant: [
      `update billing.entry set amount_minor = -amount_minor where transaction_id = :sealed4`,
      'update billing.entry set balance_minor = balance_minor - 800 where account_id = :cash and seq >= 4',
      'update billing.entry set balance_minor = balance_minor + 800 where account_id = :revenue and seq >= 6',
      balance('cash', -800),
      balance('revenue', 800),
    ],
    finds: [
      { id: 'ledger/sealed-entries', of: ':cash', seq: 4 },
      { id: 'ledger/sealed-entries', of: ':revenue', seq: 6 },
    ],
  },
  'a tenant moved': {
    plant: [
      ...['account', 'entry', 'balance', 'journal_transaction'].map(
        (table) =>
          `do $$ declare c record; begin for c in select conrelid::regclass t, conname from pg_constraint where contype = 'f' and (conrelid = 'billing.${table}'::regclass or confrelid = 'billing.${table}'::regclass) loop execute format('alter table %s drop constraint %I', c.t, c.conname); end loop; end $$`,
      ),
      ...['account', 'entry', 'balance', 'journal_transaction'].map(
        (table) => `update billing.${table} set tenant_id = '018f0000-0000-7000-8000-0000000000aa'`,
      ),
    ],
    finds: [{ id: 'ledger/sealed-account', of: ':cash' }],
  },
  'the whole ledger emptied': {
    plant: [
      'delete from billing.entry',
      'delete from billing.journal_transaction',
      'update billing.balance set seq = 0, balance_minor = 0',
    ],
    finds: [
      { id: 'ledger/sealed-tail', of: ':cash', seq: 1 },
      { id: 'ledger/sealed-tail', of: ':idle', seq: 1 },
    ],
  },
  'an amount beyond every limit': {
    plant: [
      `update billing.entry set amount_minor = -9223372036854775808, balance_minor = 9223372036854775807 where ${entry('cash', 9)}`,
    ],
    finds: [{ id: 'ledger/running-balance', of: ':cash', seq: 9 }],
  },
  'a trigger switched off': {
    plant: ['alter table billing.entry disable trigger entry_append_only', STOP],
    finds: [{ id: 'ledger/guards', of: 'trigger entry_append_only on entry' }],
    freezes: [],
  },
  'the posting function replaced': {
    plant: ['alter function billing.post set search_path = public, pg_temp'],
    finds: [{ id: 'ledger/guards', of: 'guards' }],
  },
  'history rewritten, and noted as mended by an ordinary transaction': {
    plant: [
      `update billing.entry set amount_minor = amount_minor + 5, balance_minor = balance_minor + 5 where ${entry('cash', 6)}`,
      carry('cash', 6, 5),
      balance('cash', 5),
      `update billing.entry set amount_minor = amount_minor - 5, balance_minor = balance_minor - 5 where ${entry('revenue', 8)}`,
      carry('revenue', 8, -5),
      balance('revenue', -5),
      NOTED_AS_MENDED('cash', "'balance', null, null, null"),
      NOTED_AS_MENDED('revenue', "'balance', null, null, null"),
      APPROVED_SINCE,
    ],
    finds: [
      { id: 'ledger/sealed-entries', of: ':cash', seq: 6 },
      { id: 'ledger/sealed-entries', of: ':revenue', seq: 8 },
    ],
  },
  'a balance edited, and noted as mended by an ordinary transaction': {
    plant: [balance('cash', 5), NOTED_AS_MENDED('cash', "'balance', null, '5500', '5505'"), APPROVED_SINCE],
    finds: [{ id: 'ledger/balance', of: ':cash' }],
    freezes: [':cash'],
  },
  'a balance edited, and a reconciliation forged with the record of its approval': {
    plant: FORGED_RECONCILIATION('nobody signed'),
    finds: [{ id: 'ledger/balance', of: ':cash' }],
    freezes: [':cash'],
  },
  'a balance edited, and a reconciliation that somebody approved who is no operator': {
    plant: FORGED_RECONCILIATION(FORGED_APPROVAL),
    finds: [{ id: 'ledger/balance', of: ':cash' }],
    freezes: [':cash'],
  },
  'an unbalanced transaction that says it is yet to come': {
    plant: [
      `insert into billing.journal_transaction (tenant_id, id, kind, business_key, xid)
       values (:tenant, '018f0000-0000-7000-8000-00000000000a', 'payment', 'odd', '99999999')`,
      `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor, xid)
       values (:tenant, :idle, 3, '018f0000-0000-7000-8000-00000000000a', 50, 'AFN', 1550, '99999999')`,
      balance('idle', 50, 1),
    ],
    finds: [
      { id: 'ledger/zero-sum', of: '018f0000-0000-7000-8000-00000000000a' },
      { id: 'ledger/transaction', of: ':idle', seq: 3 },
    ],
    freezes: [':idle'],
  },
  'the last entry of an account at rest numbered anew': {
    plant: [`update billing.entry set seq = 5 where ${entry('idle', 2)}`],
    finds: [{ id: 'ledger/sequence', of: ':idle', seq: 5 }],
    freezes: [':idle'],
  },
  'all entries of an account at rest numbered anew': {
    plant: [
      `update billing.entry set seq = seq + 1 where account_id = :idle and seq = 2`,
      `update billing.entry set seq = seq + 1 where account_id = :idle and seq = 1`,
    ],
    finds: [{ id: 'ledger/sequence', of: ':idle', seq: 2 }],
  },
  'an unsealed entry’s currency edited': {
    plant: [`update billing.entry set currency = 'USD' where ${entry('cash', 10)}`],
    finds: [{ id: 'ledger/currency', of: ':cash', seq: 10 }],
  },
  'an unsealed entry backdated': {
    plant: [`update billing.entry set posted_at = posted_at - interval '40 days' where ${entry('cash', 9)}`],
    finds: [{ id: 'ledger/transaction', of: ':unsealed1' }],
  },
  'two unsealed entries of an account swapped': {
    plant: [
      `update billing.entry set seq = 99 where ${entry('cash', 9)}`,
      `update billing.entry set seq = 9 where ${entry('cash', 10)}`,
      `update billing.entry set seq = 10 where ${entry('cash', 99)}`,
    ],
    finds: [{ id: 'ledger/running-balance', of: ':cash', seq: 9 }],
  },
  'a sealed transaction deleted with its entries, and all behind it moved up': {
    plant: [
      ...['cash', 'revenue'].flatMap((account) => [
        `create temp table gone_${account} on commit drop as select seq, amount_minor from billing.entry
         where account_id = :${account} and transaction_id = :sealed5`,
        `delete from billing.entry where account_id = :${account} and transaction_id = :sealed5`,
        `update billing.entry e set seq = e.seq + 1000, balance_minor = balance_minor - g.amount_minor from gone_${account} g
         where account_id = :${account} and e.seq > g.seq`,
      ]),
      'update billing.entry set seq = seq - 1001 where seq > 1000',
      'delete from billing.journal_transaction where id = :sealed5',
      'update billing.balance b set (seq, balance_minor) = (select max(seq), sum(amount_minor) from billing.entry e where e.account_id = b.account_id)',
    ],
    finds: [
      { id: 'ledger/sealed-entries', of: ':cash' },
      { id: 'ledger/sealed-entries', of: ':revenue' },
      { id: 'ledger/sealed-transactions', of: 'transactions' },
    ],
  },
  'an entry moved to a transaction of the same amount': {
    plant: [`update billing.entry set transaction_id = :sealed1 where ${entry('cash', 10)}`],
    finds: [{ id: 'ledger/transaction', of: ':cash', seq: 10 }],
  },
  'an entry before the first': {
    plant: [
      'alter table billing.entry drop constraint entry_seq_check',
      `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
       values (:tenant, :idle, 0, :sealed1, 50, 'AFN', 50)`,
      'alter table billing.entry add constraint entry_seq_check check (seq > 0) not valid',
    ],
    finds: [{ id: 'ledger/sequence', of: ':idle', seq: 0 }],
  },
  'a trigger that fires for replicas alone': {
    plant: ['alter table billing.mended_fault enable replica trigger mended_append_only', STOP],
    finds: [{ id: 'ledger/guards', of: 'trigger mended_append_only on mended_fault' }],
    freezes: [],
  },
  'a right to write given away': {
    plant: ['grant insert on billing.entry to tabib_app'],
    finds: [{ id: 'ledger/guards', of: 'guards' }],
    freezes: [],
  },
  'a rule that swallows posts': {
    plant: [
      'create rule swallow as on insert to billing.entry where new.amount_minor = 1 do instead nothing',
    ],
    finds: [{ id: 'ledger/guards', of: 'guards' }],
    freezes: [],
  },
}

const describes = (finding: Verification['findings'][number], of: string, seq: number | undefined) =>
  finding.object.includes(named(of).replaceAll("'", '')) &&
  (seq === undefined || String(finding.evidence.seq) === String(seq))

test('the untouched copy verifies', () =>
  inCopy(async ({ db, folder }) => {
    expect((await verify(db, folder)).findings).toEqual([])
  }))

describe.each(Object.entries(FAULTS))('%s', (_, { plant, finds, freezes }) => {
  test('is found, where it is, and nothing else is touched', () =>
    inCopy(async ({ db, folder, tamper }) => {
      await tamper(...plant)
      const { findings } = await verify(db, folder)
      for (const { id, of, seq } of finds) {
        expect(
          findings.filter((finding) => finding.id === id && describes(finding, of, seq)),
          `${id} ${of} ${seq ?? ''} among ${findings.map((f) => `${f.id} ${f.object}: ${f.message}`).join('\n')}`,
        ).not.toHaveLength(0)
      }
      const frozen = new Set(findings.flatMap((finding) => finding.freezes.map(({ id }) => id)))
      if (freezes)
        expect([...frozen].sort()).toEqual(freezes.map((of) => named(of).replaceAll("'", '')).sort())
      const stopped = await stopDrift({ db }, findings)
      const [now] = await db.query<{ frozen: string[]; incidents: number }>(
        `select (select coalesce(array_agg(account_id::text), '{}') from billing.balance where frozen_at is not null) as frozen,
           (select count(*)::int from tabib.incident where severity = 'page' and state = 'open') as incidents`,
      )
      expect(stopped.frozen.sort()).toEqual(now!.frozen.sort())
      expect([...frozen]).toEqual(expect.arrayContaining(now!.frozen))
      expect(now!.incidents).toBeGreaterThan(0)
      expect(stopped.incidents).toHaveLength(now!.incidents)
      // Found again, it pages nobody again.
      const repeated = await stopDrift({ db }, findings)
      expect({ frozen: repeated.frozen, incidents: repeated.incidents.sort() }).toEqual({
        frozen: [],
        incidents: stopped.incidents.sort(),
      })
      // What the first verification found is not sealed over.
      const again = await verify(db, folder)
      const objects = (of: typeof findings) => [...new Set(of.map(({ object }) => object))].sort()
      expect(objects(again.findings)).toEqual(objects(findings))
    }))
})

test('what came since an account was read last is sealed in the order of posting', () =>
  inCopy(async ({ db, folder, tamper }) => {
    const content = await readFile(join(folder, '00000002.content'), 'utf8')
    const kinds = content.split('\n').map((line) => line.slice(0, 2))
    expect(kinds).toEqual(expect.arrayContaining(['t ', 'e ', 'p ']))
    const account = await findAccount({ db }, cash)
    const faults = async () => {
      const witness = await callWitness({ db, keyStore: async () => keys.store }, account, folder)
      return (await witness.faults(db)).map(({ says }) => says)
    }
    expect(await faults()).toEqual([])
    await tamper(
      ...[6, -6].flatMap((by, i) => {
        const [of, seq] = (
          [
            ['cash', 6],
            ['revenue', 8],
          ] as const
        )[i]!
        return [
          `update billing.entry set amount_minor = amount_minor + ${by}, balance_minor = balance_minor + ${by} where ${entry(of, seq)}`,
          carry(of, seq, by),
          balance(of, by),
        ]
      }),
    )
    // A reconciliation asks the seal as well.
    expect(await faults()).toEqual(expect.arrayContaining(['entry 6 was written anew since it was sealed']))
    const { findings } = await verify(db, folder)
    expect(findings.map(({ object }) => object)).toEqual(
      expect.arrayContaining([`account ${cash}`, `account ${revenue}`]),
    )
  }))

test('balances are added up without a seal, and what was explained is no drift', () =>
  inCopy(async ({ db, folder, tamper }) => {
    const told = async () => (await verifyBalances({ db })).map(({ id, object }) => `${id} ${object}`)
    expect(await told()).toEqual([])
    await tamper(balance('cash', 5))
    expect(await told()).toEqual([`ledger/balance account ${cash}`])
    await stopDrift({ db }, (await verify(db, folder)).findings)
    const account = await findAccount({ db }, cash)
    const witness = await callWitness({ db, keyStore: async () => keys.store }, account, folder)
    const plan = await planReconciliation(db, account, witness)
    await withConsent(db, plan, () => applyReconciliation({ db }, plan, witness))
    expect(await told()).toEqual([])
  }))

test('a seal of before, with a line for each account, is read', () => {
  const line = `a ${tenantId} ${cash} AFN 0 shop,till 3 600 - 3:${'ab'.repeat(32)}`
  expect(parseAccount(line)).toMatchObject({
    code: 'shop%2Ctill',
    seq: 3n,
    blocks: [{ to: 3n }],
    compacted: 0,
  })
})

describe('seals', () => {
  const cases: Record<string, { harm(copy: Copy): Promise<void>; says: RegExp }> = {
    'emptied folder': {
      harm: async ({ folder }) => {
        for (const name of await readdir(folder)) await rm(join(folder, name))
      },
      says: /the folder is empty, and seal 2 was in it/,
    },
    'folder that was rolled back': {
      harm: async ({ folder }) => {
        for (const name of await readdir(folder))
          if (/2\.(seal|content)$/.test(name)) await rm(join(folder, name))
      },
      says: /seal 2 is gone, the last one in the folder is 1/,
    },
    'content edited': {
      harm: async ({ folder }) => {
        const path = join(folder, '00000002.content')
        await writeFile(path, (await readFile(path, 'utf8')).replace('AFN', 'USD'))
      },
      says: /seal 2 is not believed: its content was changed/,
    },
    'last seal replaced by the one before': {
      harm: async ({ folder }) => {
        for (const kind of ['seal', 'content'])
          await cp(join(folder, `00000001.${kind}`), join(folder, `00000002.${kind}`))
      },
      says: /seal 2 is not believed: it says of itself that it is seal 1/,
    },
    'seal before it edited': {
      harm: ({ folder }) => writeFile(join(folder, '00000001.seal'), 'nothing'),
      says: /seal 1, which seal 2 names, was changed or is gone/,
    },
    'signature of a key that the store does not hold': {
      harm: async ({ folder }) => {
        const { privateKey } = await generateKeyPair('ES256')
        const path = join(folder, '00000002.seal')
        const head = decodeJwt(await readFile(path, 'utf8'))
        const forged = new SignJWT(head).setProtectedHeader({
          alg: 'ES256',
          kid: 'foreign',
          typ: 'tabib-ledger-seal+jws',
        })
        await writeFile(path, await forged.sign(privateKey))
      },
      says: /the key store holds no key foreign/,
    },
    'signature of a key under a name that the store holds': {
      harm: async ({ folder }) => {
        const { privateKey } = await generateKeyPair('ES256')
        const path = join(folder, '00000002.seal')
        const text = await readFile(path, 'utf8')
        const forged = new SignJWT(decodeJwt(text)).setProtectedHeader({
          ...decodeProtectedHeader(text),
          alg: 'ES256',
        })
        await writeFile(path, await forged.sign(privateKey))
      },
      says: /seal 2 is not believed: signature verification failed/,
    },
    'record of seals deleted': {
      harm: ({ tamper }) => tamper('delete from tabib.ledger_seal where n > 1'),
      says: /the database knows of seal 1, and seal 2 lies in the folder/,
    },
  }
  test.each(Object.entries(cases))('an %s is found, and nothing is sealed over it', (_, { harm, says }) =>
    inCopy(async (copy) => {
      await harm(copy)
      for (let again = 0; again < 2; again++) {
        const { findings, facts } = await verify(copy.db, copy.folder)
        expect(findings.map(({ id, message }) => `${id} ${message}`).join()).toMatch(says)
        expect(facts.writtenSeal).toBeNull()
      }
      const anew = await verify(copy.db, copy.folder, { reseal: true })
      expect(anew.findings.map(({ severity }) => severity)).toContain('warning')
      expect((await verify(copy.db, copy.folder)).findings).toEqual([])
    }),
  )

  test('a crash between the record of a seal and its files is made good', () =>
    inCopy(async ({ db, folder }) => {
      const jws = await readFile(join(folder, '00000002.seal'), 'utf8')
      const digest = createHash('sha256').update(jws.trim()).digest('hex').slice(0, 16)
      for (const name of ['00000002.seal', '00000002.content']) {
        await rename(join(folder, name), join(folder, `${name}.${digest}.draft`))
      }
      const { findings, facts } = await verify(db, folder)
      expect(findings).toEqual([])
      expect(facts).toMatchObject({ comparedSeal: 2, writtenSeal: 3 })
    }))
})

test('a well-formed double post is found by the command, with its account and entry', () =>
  inCopy(async ({ db, folder, service, url }) => {
    const first = await post(service, 1_100n, cash, 'key-11', 'payment')
    const again = await post(service, 1_100n, cash, 'key-11, by another way', 'payment')
    expect((await verify(db, folder, { seal: false })).findings).toEqual([])
    const { envelope, exitCode } = await runJson(['ledger', 'verify', '--dry-run'], {
      ...keys.env,
      TABIB_DATABASE_URL: url,
      TABIB_LEDGER_SEALS: folder,
    })
    // Each may be right by itself: somebody has to look.
    expect(exitCode).toBe(0)
    const { findings } = envelope.result as Verification
    const object = `account ${cash}`
    expect(findings.filter(({ id }) => id === 'ledger/duplicate')).toMatchObject([
      {
        ...{ severity: 'warning', object, evidence: { transactionId: again, seq: '12' } },
        message: expect.stringContaining(first),
      },
    ])
    expect(findings.filter(({ id }) => id === 'ledger/document')).toMatchObject([
      { severity: 'warning', object: `transaction ${first}`, evidence: { seq: '11', accountId: cash } },
      { severity: 'warning', object: `transaction ${again}`, evidence: { seq: '12', accountId: cash } },
    ])
    expect(findings).toHaveLength(3)
  }))

test('an account bears its patient’s pseudonym once they were erased, and no other name', () =>
  inCopy(async ({ db, folder, service, tamper }) => {
    const patientId = randomUUID()
    const secretFile = join(folder, 'erasure.secret')
    await writeFile(secretFile, randomUUID(), { mode: 0o600 })
    const secret = await openErasureSecret(secretFile)
    const account = await service.transaction(async (tx) => {
      await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
      return openAccount(tx, { tenantId, code: `receivable:${patientId}`, currency: 'AFN' })
    })
    await post(service, 300n, account, 'key-11')
    const findings = async () => {
      const app = { db, keyStore: async () => keys.store, erasureSecret: async () => secret }
      return (await verifyLedger(app, {}, { folder })).findings.map(({ id, object }) => `${id} ${object}`)
    }
    expect(await findings()).toEqual([])
    const rename = (to: string) =>
      tamper(`update billing.account set code = 'receivable:${to}' where id = '${account}'`)
    const changed = [`ledger/sealed-account account ${account}`]
    await rename(secret.pseudonym(tenantId, patientId))
    expect(await findings()).toEqual(changed)
    await tamper(
      'alter table tabib.erasure_subject no force row level security, drop constraint erasure_subject_request_id_fkey',
      `insert into tabib.erasure_subject (tenant_id, subject_hash, request_id)
       values (:tenant, '\\x${secret.subjectHash(tenantId, patientId).toString('hex')}', gen_random_uuid())`,
    )
    expect(await findings()).toEqual([])
    await rename(randomUUID())
    expect(await findings()).toEqual(changed)
  }))

test('verifications under concurrent posts raise no false alarm', () =>
  inCopy(async ({ db, folder, service }) => {
    const keyStore = async () => keys.store
    const run = await runVerifications({ db, service, keyStore }, { tenantId, folder, verifications: 15 })
    expect(run.falseAlarms).toEqual([])
    expect(run.posted).toBeGreaterThan(0)
  }))

test('an account that two people mended holds again, and is sealed as it is', () =>
  inCopy(async ({ db, folder, tamper }) => {
    await tamper(`update billing.entry set amount_minor = amount_minor + 5 where ${entry('cash', 3)}`)
    await stopDrift({ db }, (await verify(db, folder)).findings)
    const account = await findAccount({ db }, cash)
    const witness = await callWitness({ db, keyStore: async () => keys.store }, account, folder)
    const plan = await planReconciliation(db, account, witness)
    await withConsent(db, plan, () => applyReconciliation({ db }, plan, witness))
    expect((await verify(db, folder)).findings).toEqual([])
    expect((await verify(db, folder)).facts.writtenSeal).toBe(5)
    await tamper(
      balance('idle', 5),
      `insert into billing.mended_fault (tenant_id, account_id, transaction_id, check_name, expected, seen)
       select tenant_id, :idle, transaction_id, 'balance', '1500', '1505' from billing.mended_fault limit 1`,
    )
    expect((await verify(db, folder)).findings.map(({ id }) => id)).toContain('ledger/sealed-mendings')
    await tamper(`update billing.entry set amount_minor = amount_minor + 1 where ${entry('cash', 3)}`)
    expect((await verify(db, folder)).findings.map(({ object }) => object)).toContain(`account ${cash}`)
  }))
