import { randomUUID } from 'node:crypto'
import { openAccount } from '../domain/ledger/account.ts'
import { postTransaction } from '../domain/ledger/post.ts'
import { verifyLedger } from '../domain/ledger/verify.ts'
import { asTenant } from '../domain/sessions/tenant.ts'
import type { World } from '../sandbox/world.ts'

export interface VerificationsRun {
  verifications: number
  posted: number
  /** What a verification found although nothing was wrong. */
  falseAlarms: string[]
}

/**
 * Verifies a ledger again and again, sealing each time, every other time as between the nights, while several posters at once
 * post to the same accounts and to new ones.
 */
export async function runVerifications(
  { db, service, keyStore }: Pick<World, 'db' | 'service'> & Pick<World['app'], 'keyStore'>,
  {
    tenantId,
    folder,
    verifications,
    posters = 4,
    signal,
    say,
  }: {
    tenantId: string
    /** Of the seals. */
    folder: string
    verifications: number
    posters?: number
    /** Aborted: the verification under way is the last, and what was done is told. */
    signal?: AbortSignal
    say?: (line: string) => void
  },
): Promise<VerificationsRun> {
  const run: VerificationsRun = { verifications: 0, posted: 0, falseAlarms: [] }
  const stop = new AbortController()
  const accounts = await asTenant(service, tenantId, async (tx) => {
    const ids: string[] = []
    for (const code of ['cash', 'revenue', 'gateway:hesab', 'refunds-payable']) {
      ids.push(await openAccount(tx, { tenantId, code, currency: 'AFN' }))
    }
    return ids
  })
  const post = async (nth: number) => {
    for (let n = nth; !stop.signal.aborted; n++) {
      const amountMinor = 100n + BigInt(n % 7)
      // Patients are new now and then.
      const debtor =
        n % 50 === 0
          ? await asTenant(service, tenantId, (tx) =>
              openAccount(tx, { tenantId, code: `receivable:${randomUUID()}`, currency: 'AFN' }),
            )
          : accounts[n % 4]!
      const entries = [
        { accountId: debtor, amountMinor, currency: 'AFN' },
        { accountId: accounts[(n + 1 + (n % 3)) % 4]!, amountMinor: -amountMinor, currency: 'AFN' },
      ]
      await asTenant(service, tenantId, (tx) =>
        postTransaction(tx, { tenantId, kind: 'payment', businessKey: randomUUID(), entries }),
      )
      run.posted += 1
    }
  }
  const posting = Promise.all(Array.from({ length: posters }, (_, nth) => post(nth)))
  try {
    for (; run.verifications < verifications && !signal?.aborted; run.verifications++) {
      const quick = run.verifications % 2 === 1
      const { findings } = await verifyLedger({ db, keyStore }, { quick }, { folder })
      run.falseAlarms.push(...findings.map(({ id, object, message }) => `${id} ${object}: ${message}`))
      if (run.verifications % 100 === 99) say?.(`${run.verifications + 1} verifications, ${run.posted} posts`)
    }
  } finally {
    stop.abort()
    await posting
  }
  return run
}
