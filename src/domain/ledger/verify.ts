import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Connection, Database } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { changedStretches, mendedDigest } from './digest.ts'
import {
  examineAccount,
  examineBlock,
  examineTransactions,
  type LedgerFinding,
  ledgerFinding,
  type Names,
  strayEntries,
  stretchFinding,
} from './examine.ts'
import { type Guards, readGuards } from './guards.ts'
import { passLedger } from './pass.ts'
import { readLastSeal, SEAL_PURPOSE, type Seal, writeSeal } from './seal.ts'
import type { Sighting, VerifyScope } from './sighting.ts'

export interface Verification {
  findings: LedgerFinding[]
  facts: {
    accounts: number
    transactions: number
    entries: number
    /** Entries that no seal covered, each checked by itself. */
    newEntries: number
    /** Entries whose sealed digest was computed anew. */
    sealedEntries: number
    /** The seal that the ledger was compared with, and the one that was written. */
    comparedSeal: number | null
    writtenSeal: number | null
  }
  /** What it was compared with. */
  last: Seal | undefined
}

export interface VerifyOptions {
  /** Where the seals lie. Without it there are none, and what was rewritten with care passes. */
  folder: string | undefined
  /** Whether a verification of the whole ledger writes the next seal. */
  seal?: boolean
  /** Seals what is there although the last seal is missing or not believed. */
  reseal?: boolean
  signal?: AbortSignal | undefined
}

/** More than so many accounts in ruins are one catastrophe, not as many cases. */
const MOST_EXAMINED = 200

/**
 * Verifies the ledger as one snapshot shows it: each entry that no seal covers by itself, each account against its
 * balance and its seal, and of what is sealed the digests of a share, or of all with `full`. What does not hold is read
 * again in a fresh snapshot, and only what does not hold there either is a finding. A verification of the whole ledger
 * then writes the next seal; accounts with findings keep what the last one says of them.
 *
 * @throws TabibError NOT_FOUND for a folder that cannot be used, KEY_STORE_UNREACHABLE, LOCKED when another verification
 * sealed meanwhile.
 */
export async function verifyLedger(
  app: { db: Database; keyStore(): Promise<KeyStore>; erasureSecret?: Names },
  scope: VerifyScope,
  { folder, seal = true, reseal = false, signal }: VerifyOptions,
): Promise<Verification> {
  const { db } = app
  const keyStore = folder === undefined ? undefined : await app.keyStore()
  const where = folder === undefined || keyStore === undefined ? undefined : { folder, keyStore }
  const { seal: found, problems } = where
    ? await readLastSeal({ db, keyStore: where.keyStore }, where.folder)
    : { seal: undefined, problems: [] }
  // To seal anew is to take what is there for right; what does not add up is found all the same.
  const last = reseal ? undefined : found
  const findings = problems.map((problem) =>
    ledgerFinding('ledger/seal', {
      severity: reseal ? 'warning' : 'critical',
      object: `seals in ${folder}`,
      message: problem,
      fix: 'tabib ledger verify --full --reseal',
    }),
  )
  const whole = scope.accountId === undefined && scope.tenantId === undefined && scope.since === undefined
  const mayWrite = whole && seal && (problems.length === 0 || reseal)
  await using writer =
    where && mayWrite
      ? await writeSeal({ db, keyStore: where.keyStore }, { folder: where.folder })
      : undefined

  await using connection = await db.connection()
  const seen = await inOneSnapshot(connection, async () => {
    const sighting = await passLedger(connection, {
      scope,
      last,
      writer,
      clearsAccount: async (suspect, stretches) =>
        (await examineAccount(connection, suspect, last, app.erasureSecret, stretches)).length === 0,
      clearsTransaction: async (suspect) => (await examineTransactions(connection, [suspect])).length === 0,
      signal,
    })
    return {
      guards: await readGuards(connection),
      mended: await mendedDigest(connection, sighting.snapshot),
      mendedThen: last?.ofThisCluster ? await mendedDigest(connection, last.snapshot) : undefined,
      sighting,
    }
  })
  const { suspects, snapshot, looks, ...facts } = seen.sighting
  const faults = await inOneSnapshot(connection, () =>
    examineAgain(connection, suspects, last, app.erasureSecret),
  )
  const guards = judgeGuards(seen.guards, last)
  const mendings = judgeMendings(seen.mendedThen, last)
  findings.push(...faults, ...guards, ...mendings)

  let writtenSeal: number | null = null
  // Rows that belong nowhere are in no account that could be left out: nothing is sealed until they are explained.
  if (writer && !suspects.strays) {
    const held = guards.length > 0 && last ? last.guards : seen.guards.digest
    const mended = mendings.length > 0 ? last!.mended : seen.mended
    const signed = await writer.sign({ ...facts, ...looks, snapshot, guards: held, mended }).catch(unsigned)
    if ('n' in signed) writtenSeal = signed.n
    else findings.push(signed)
  }
  return { findings, facts: { ...facts, comparedSeal: last?.n ?? null, writtenSeal }, last }
}

async function inOneSnapshot<T>(connection: Connection, work: () => Promise<T>): Promise<T> {
  await connection.query('begin isolation level repeatable read, read only')
  try {
    return await work()
  } finally {
    await connection.query('rollback')
  }
}

/** What a pass suspected, read anew. */
async function examineAgain(
  connection: Connection,
  { accounts, transactions, blocks, stretches, strays }: Sighting['suspects'],
  last: Seal | undefined,
  names: Names | undefined,
): Promise<LedgerFinding[]> {
  const findings: LedgerFinding[] = []
  const changed = await changedStretches(connection, stretches)
  for (const suspect of accounts.slice(0, MOST_EXAMINED)) {
    findings.push(...(await examineAccount(connection, suspect, last, names, changed)))
  }
  if (findings.length === 0) findings.push(...changed.map(stretchFinding))
  if (accounts.length > MOST_EXAMINED) {
    findings.push(
      ledgerFinding('ledger/balance', {
        object: 'the ledger',
        message: `${accounts.length - MOST_EXAMINED} more accounts do not verify`,
        fix: 'tabib ledger verify --tenant <id>',
      }),
    )
  }
  findings.push(...(await examineTransactions(connection, transactions)))
  for (const block of blocks.slice(0, MOST_EXAMINED))
    findings.push(...(await examineBlock(connection, block)))
  const missing = findings.some(
    ({ id, evidence }) => id === 'ledger/sealed-transactions' && 'expected' in evidence,
  )
  if (strays || missing) findings.push(...(await strayEntries(connection, last)))
  if (strays && findings.length === 0) {
    findings.push(
      ledgerFinding('ledger/transaction', {
        object: 'the ledger',
        message: 'new entries and the entries of new transactions are not the same; nothing was sealed',
      }),
    )
  }
  return narrowed(findings)
}

/** A transaction that does not balance because one of its accounts was tampered with puts the others in no doubt. */
function narrowed(findings: LedgerFinding[]): LedgerFinding[] {
  const itself = ({ id, freezes }: LedgerFinding) => id !== 'ledger/zero-sum' && freezes.length > 0
  const tampered = new Set(
    findings.filter(itself).flatMap(({ freezes }) => freezes.map(({ tenantId }) => tenantId)),
  )
  return findings.map((finding) => {
    if (itself(finding) || finding.freezes.length === 0) return finding
    const freezes = finding.freezes.filter(({ tenantId }) => !tampered.has(tenantId))
    // The account that was tampered with pages; this is told beside it.
    return { ...finding, freezes, severity: freezes.length > 0 ? finding.severity : 'error' }
  })
}

function judgeGuards({ disabled, digest }: Guards, last: Seal | undefined): LedgerFinding[] {
  const about = (object: string, message: string) =>
    ledgerFinding('ledger/guards', { object, message, fix: 'tabib migrate status' })
  if (disabled.length > 0) return disabled.map((guard) => about(guard, 'is not in force'))
  if (last === undefined || last.guards === digest) return []
  return [
    about(
      'guards of the ledger',
      'a trigger, constraint, policy, rule, function or right to write is another than when it was sealed',
    ),
  ]
}

function judgeMendings(then: string | undefined, last: Seal | undefined): LedgerFinding[] {
  if (then === undefined || last?.mended === undefined || then === last.mended) return []
  return [
    ledgerFinding('ledger/sealed-mendings', {
      object: 'what was noted as mended',
      message:
        'transactions that were sealed are said to have mended something else than when they were sealed',
    }),
  ]
}

function unsigned(error: unknown): LedgerFinding {
  if (!(error instanceof TabibError) || !['NOT_FOUND', 'OVERLAP_TOO_SHORT'].includes(error.code)) throw error
  return ledgerFinding('ledger/seal', {
    severity: 'warning',
    object: 'the next seal',
    message: `nothing was sealed: ${error.message}`,
    fix: `tabib keys rotate --purpose ${SEAL_PURPOSE} --token-lifetime 8d --overlap 9d --yes`,
  })
}
