import type { SuspectAccount, SuspectTransaction } from './examine.ts'
import {
  formatAccount,
  formatPage,
  NOTHING_SEALED,
  pageOf,
  type Seal,
  type SealedAccount,
  type SealedTransactions,
  type SealWriter,
  type Stretch,
} from './seal.ts'

/** What a verification looks at beyond what is new. Without any of these: the whole ledger. */
export interface VerifyScope {
  accountId?: string | undefined
  tenantId?: string | undefined
  /** Accounts that were posted to since then. */
  since?: Date | undefined
  /** All that is sealed, not a share of it. */
  full?: boolean | undefined
  /** Nothing of what is sealed. */
  quick?: boolean | undefined
}

export interface PassOptions {
  scope: VerifyScope
  last: Seal | undefined
  writer: SealWriter | undefined
  /** A close look at what was seen with a fault, and in which stretches: true when all of it is explained. */
  clearsAccount(suspect: SuspectAccount, stretches: readonly Stretch[]): Promise<boolean>
  clearsTransaction(suspect: SuspectTransaction): Promise<boolean>
  signal?: AbortSignal | undefined
}

/** What a pass saw. Suspects are looked at again before anything is said of them. */
export interface Sighting {
  /** Everything that this `pg_snapshot` sees was looked at. */
  snapshot: string
  accounts: number
  entries: number
  transactions: number
  newEntries: number
  sealedEntries: number
  /** What the next seal says of looks. */
  looks: { looks: number; compacted: number }
  suspects: {
    accounts: SuspectAccount[]
    transactions: SuspectTransaction[]
    /** Sealed transactions whose digest is another. */
    blocks: SealedTransactions[]
    /** The same of entries that are sealed in the order of posting. */
    stretches: Stretch[]
    /** The new entries and the entries of the new transactions are not the same. */
    strays: boolean
  }
}

/** Before and behind every id. */
export const NIL = '00000000-0000-0000-0000-000000000000'
export const BEHIND_ALL = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
/** One digest for so many transactions. */
export const TRANSACTIONS_A_BLOCK = 10_000
export const NUMERIC_VALUE_OUT_OF_RANGE = '22003'
// A ledger so small is verified whole each time; of a larger one every pass takes its share of a week.
const ENTRIES_A_PASS = 2_000_000
const PASSES_A_ROUND = 7
const NEVER = -1

/** Which share of what is sealed is looked at: every `of`th, from `now` on. */
export interface Turn {
  of: number
  now: number
  /** How many looks there were, this one included. */
  looks: number
  /** The first look from which on an account's blocks have what is new now, unless it is read now. */
  next: number
}

export function turnOf({ scope, last }: Pick<PassOptions, 'scope' | 'last'>): Turn {
  const { accountId, tenantId, since, full, quick } = scope
  const whole = accountId === undefined && tenantId === undefined && since === undefined
  const of = whole && !full && (last?.entries ?? 0) > ENTRIES_A_PASS ? PASSES_A_ROUND : 1
  const looks = (last?.looks ?? 0) + (quick ? 0 : 1)
  return { of, now: quick ? NEVER : looks % of, looks, next: quick ? looks + 1 : looks }
}

/** Whether all that is sealed is looked at. */
export const isWhole = ({ of, now }: Turn): boolean => of === 1 && now !== NEVER

/** Whether it is the turn of the nth account or page; also of one that others came before since its last one. */
export const isDue = ({ of, now, looks }: Turn, nth: number, compacted: number): boolean =>
  now !== NEVER && (nth % of === now || looks - compacted >= of)

/** What a seal of this cluster has seen of the ledger; of another's, the transaction ids say nothing. */
export const seenBy = (seal: Seal | undefined): string =>
  seal?.ofThisCluster ? seal.snapshot : NOTHING_SEALED

const ACCOUNTS_A_PAGE = 1_000
export const isCurrency = (code: string): boolean => /^[A-Z]{3}$/.test(code)

/** Writes accounts to the next seal in their order, those that can be together in pages. */
export class AccountBook {
  readonly #writer: SealWriter | undefined
  #page: SealedAccount[] = []
  compacted = Number.MAX_SAFE_INTEGER

  constructor(writer: SealWriter | undefined) {
    this.#writer = writer
  }

  async add(account: SealedAccount): Promise<void> {
    this.compacted = Math.min(this.compacted, account.compacted)
    // What cannot be in a list stands by itself.
    const alone = account.blocks.length > 1 || account.heldAt !== undefined || !isCurrency(account.currency)
    const first = this.#page[0]
    if (first && (alone || first.tenantId !== account.tenantId || this.#page.length === ACCOUNTS_A_PAGE))
      await this.flush()
    if (alone) await this.#writer?.write(formatAccount(account))
    else this.#page.push(account)
  }

  /** A page as it is in the last seal, or with other figures. */
  async addPage(page: Parameters<typeof formatPage>[0]): Promise<void> {
    await this.flush()
    this.compacted = Math.min(this.compacted, page.compacted)
    await this.#writer?.write(formatPage(page))
  }

  async flush(): Promise<void> {
    if (this.#page.length === 0) return
    const page = pageOf(this.#page)
    this.#page = []
    await this.#writer?.write(formatPage(page))
  }
}
