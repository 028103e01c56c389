import type { Connection } from '../../adapters/postgres/client.ts'
import {
  changedSpans,
  NO_END,
  Pace,
  readDigests,
  rowsOf,
  sealedSpans,
  tailSpans,
  tenantsOf,
} from './digest.ts'
import {
  type AccountRange,
  type AccountsNow,
  areAsSealed,
  Doubt,
  type Glance,
  type Grown,
  glanceAtGrowth,
  readAccounts,
  readFigures,
} from './glance.ts'
import {
  type AccountPage,
  accountsOf,
  pageOf,
  type Seal,
  type SealedAccount,
  sealedAccounts,
} from './seal.ts'
import {
  AccountBook,
  isCurrency,
  isDue,
  isWhole,
  NIL,
  type PassOptions,
  type Sighting,
  type Turn,
} from './sighting.ts'

/** One more than a page has, so that what is too much shows. */
const ACCOUNTS_AT_ONCE = 1_001

/** What a glance at a ledger is done with, and what it has seen so far. */
export interface Look {
  sighting: Sighting
  turn: Turn
  glance: Glance
}

/** What accounts of a ledger have grown by since they were sealed, as `EntriesGlance` has it of entries. */
interface AccountsGrown {
  entries: number
  steps: bigint
}

/** Every account against its seal, page by page; what is due with its entries. @throws Doubt */
export async function glanceOverAccounts(
  connection: Connection,
  options: PassOptions & { last: Seal },
  look: Look,
): Promise<AccountsGrown> {
  const glance = new AccountsGlance(connection, options, look, await tenantsOf(connection))
  for await (const sealed of sealedAccounts(options.last)) await glance.take(sealed)
  return glance.finish()
}

/** Goes through accounts in the order in which they are sealed. What is new shows between those that were. */
class AccountsGlance {
  readonly #connection: Connection
  readonly #options: PassOptions
  readonly #look: Look
  /** That are still to come. */
  readonly #tenantIds: string[]
  readonly #book: AccountBook
  readonly #pace = new Pace()
  readonly #grown: AccountsGrown = { entries: 0, steps: 0n }
  /** Of pages and of neighbours that are in none: some are due each time. */
  #nth = 0
  /** Behind which the next account is. */
  #at: AccountRange | undefined
  /** Neighbours of one tenant that are in no page. */
  #single: SealedAccount[] = []

  constructor(connection: Connection, options: PassOptions, look: Look, tenantIds: string[]) {
    this.#connection = connection
    this.#options = options
    this.#look = look
    this.#tenantIds = tenantIds
    this.#book = new AccountBook(options.writer)
  }

  async take(sealed: AccountPage | SealedAccount): Promise<void> {
    this.#options.signal?.throwIfAborted()
    await this.#goTo(sealed.tenantId)
    if (isPage(sealed)) {
      await this.#takeSingle()
      await this.#takePage(sealed)
      return
    }
    if (sealed.heldAt !== undefined) throw new Doubt()
    this.#single.push(sealed)
    if (this.#single.length === ACCOUNTS_AT_ONCE) await this.#takeSingle()
  }

  async finish(): Promise<AccountsGrown> {
    await this.#leave()
    for (const tenantId of this.#tenantIds) await this.#takeRange({ tenantId, after: NIL })
    await this.#book.flush()
    const { sighting, turn } = this.#look
    sighting.looks = { looks: turn.looks, compacted: Math.min(this.#book.compacted, turn.next) }
    return this.#grown
  }

  /** Past the accounts that are new in the tenants before. */
  async #goTo(tenantId: string): Promise<void> {
    if (this.#at?.tenantId === tenantId) return
    await this.#leave()
    for (const id of this.#tenantIds.splice(0, this.#tenantIds.indexOf(tenantId) + 1))
      if (id !== tenantId) await this.#takeRange({ tenantId: id, after: NIL })
    this.#at = { tenantId, after: NIL }
  }

  async #leave(): Promise<void> {
    await this.#takeSingle()
    if (this.#at) await this.#takeRange(this.#at)
  }

  async #takeSingle(): Promise<void> {
    const single = this.#single
    if (single.length === 0) return
    this.#single = []
    const least = Math.min(...single.map(({ compacted }) => compacted))
    const due = isDue(this.#look.turn, this.#nth++, least)
    await this.#takeRange(this.#upTo(single.at(-1)!.accountId), single, due)
  }

  /** From where it is to an account, which it is then behind. */
  #upTo(accountId: string): AccountRange {
    const range = { ...this.#at!, upTo: accountId }
    this.#at = { tenantId: range.tenantId, after: accountId }
    return range
  }

  async #takePage(page: AccountPage): Promise<void> {
    const { sighting, turn, glance } = this.#look
    const due = isDue(turn, this.#nth++, page.compacted)
    const range = this.#upTo(page.ids.slice(-NIL.length))
    if (this.#options.scope.quick) {
      const now = await readFigures(this.#connection, range, ACCOUNTS_AT_ONCE, page, glance)
      if (now.count !== countOf(page)) return this.#takeRange(range, accountsOf(page))
      this.#add(now)
      sighting.accounts += now.count
      return this.#book.addPage({ ...page, seqs: now.seqs, balances: now.balances })
    }
    const now = await readPage(this.#connection, range, page)
    if (now === undefined) return this.#takeRange(range, accountsOf(page), due)
    if (due && !isAtRest(now, page)) return this.#takeApart(page.tenantId, now, accountsOf(page), due)
    sighting.accounts += now.count
    if (due) {
      sighting.sealedEntries += await readResting(this.#connection, page, this.#pace)
      page.compacted = turn.looks
    } else if (now.seqs !== page.seqs || now.balances !== page.balances) {
      await this.#grow(page, now)
    }
    return this.#book.addPage({ ...page, seqs: now.seqs, balances: now.balances })
  }

  /** Accounts behind one, up to another or the end of their tenant, which are new but for `sealed`. */
  async #takeRange(
    { tenantId, after, upTo }: AccountRange,
    sealed: SealedAccount[] = [],
    due = isWhole(this.#look.turn),
  ): Promise<void> {
    let left = sealed
    for (let behind = after; ; ) {
      this.#options.signal?.throwIfAborted()
      const now = await readAccounts(this.#connection, { tenantId, after: behind, upTo }, ACCOUNTS_AT_ONCE)
      const end = now.ids.slice(-NIL.length)
      const more = now.count === ACCOUNTS_AT_ONCE
      const theirs = more ? left.filter(({ accountId }) => accountId <= end) : left
      left = left.slice(theirs.length)
      await this.#takeApart(tenantId, now, theirs, due)
      if (!more) return
      behind = end
    }
  }

  /** Some accounts as they are now, one by one, against those sealed of them. */
  async #takeApart(tenantId: string, now: AccountsNow, sealed: SealedAccount[], due: boolean): Promise<void> {
    if (now.count === 0 && sealed.length === 0) return
    const { sighting, turn } = this.#look
    sighting.accounts += now.count
    const accounts = accountsOf({ tenantId, compacted: 0, tos: zeros(now), digests: blanks(now), ...now })
    const byId = new Map(sealed.map((account) => [account.accountId, account]))
    const before: SealedAccount[] = []
    for (const account of accounts) {
      const was = byId.get(account.accountId)
      byId.delete(account.accountId)
      if (!isCurrency(account.currency) || (was && !isTheSame(account, was))) throw new Doubt()
      account.blocks = was?.blocks ?? []
      account.compacted = was?.compacted ?? turn.next - 1
      before.push(was ?? { ...account, seq: 0n, balanceMinor: 0n })
    }
    // Gone, or moved.
    if (byId.size > 0) throw new Doubt()
    if (accounts.length > 0) await this.#grow(pageOf(before), now)
    if (due) sighting.sealedEntries += await compact(this.#connection, accounts, before, turn, this.#pace)
    for (const account of accounts) await this.#book.add(account)
  }

  async #grow(sealed: AccountPage, now: Pick<AccountPage, 'seqs' | 'balances'>): Promise<void> {
    this.#add(await glanceAtGrowth(this.#connection, sealed, now, this.#look.glance))
  }

  #add({ shrunk, entries, steps }: Grown): void {
    if (shrunk) throw new Doubt()
    this.#grown.entries += entries
    this.#grown.steps += steps
  }
}

const isPage = (one: AccountPage | SealedAccount): one is AccountPage => 'ids' in one
const isTheSame = (now: SealedAccount, was: SealedAccount) =>
  now.code === was.code && now.currency === was.currency && now.openingMinor === was.openingMinor
const zeros = ({ count }: AccountsNow) => Array(count).fill('0').join()
const blanks = ({ count }: AccountsNow) => Array(count).fill('').join()

const countOf = ({ ids }: AccountPage) => (ids.length + 1) / (NIL.length + 1)

/** A page's accounts as they are now; undefined where others are there, or are not what they were. */
async function readPage(
  connection: Connection,
  range: AccountRange,
  sealed: AccountPage,
): Promise<AccountsNow | undefined> {
  const plain = !sealed.codes.includes('%')
  const now = await readAccounts(connection, range, ACCOUNTS_AT_ONCE, { plain })
  const facts = ['ids', 'currencies', 'openings', 'codes'] as const
  return facts.every((fact) => now[fact] === sealed[fact]) ? now : undefined
}

/** Nothing was posted to any of them since their blocks were made, and they are in one currency. */
const isAtRest = (now: AccountsNow, sealed: AccountPage) =>
  now.seqs === sealed.seqs &&
  now.balances === sealed.balances &&
  sealed.tos === sealed.seqs &&
  sealed.currencies.replaceAll(`${sealed.currencies.slice(0, 3)},`, '').length === 3

/** Holds a page's entries against their digests, by statements as long as the pace wants them. Returns how many they are. */
async function readResting(connection: Connection, page: AccountPage, pace: Pace): Promise<number> {
  const { tenantId } = page
  const seqs = page.seqs.split(',').map(Number)
  const digests = page.digests.split(',')
  const idOf = (nth: number) => page.ids.slice(nth * (NIL.length + 1), nth * (NIL.length + 1) + NIL.length)
  for (const { items, rows } of pace.slices([...seqs.keys()], (nth) => seqs[nth]!)) {
    const posted = items.filter((nth) => seqs[nth]! > 0)
    const all = posted.length === seqs.length
    const holds = await pace.time(rows, () =>
      areAsSealed(connection, {
        tenantId,
        currency: page.currencies.slice(0, 3),
        first: idOf(items[0]!),
        last: idOf(items.at(-1)!),
        seqs: all ? page.seqs : posted.map((nth) => seqs[nth]).join(),
        digests: all ? page.digests : posted.map((nth) => digests[nth]).join(),
      }),
    )
    if (!holds) throw new Doubt()
  }
  return seqs.reduce((sum, seq) => sum + seq, 0)
}

/** Reads the blocks of accounts again, and gives all their entries one. Returns how many were sealed. */
async function compact(
  connection: Connection,
  accounts: SealedAccount[],
  before: SealedAccount[],
  { looks }: Turn,
  pace: Pace,
): Promise<number> {
  const blocks = accounts.flatMap((account) => {
    const spans = sealedSpans(account)
    const end = spans.at(-1)
    if (end?.high === account.seq) end.until = NO_END
    return spans
  })
  for (const { items, rows } of pace.slices(blocks, rowsOf)) {
    if ((await pace.time(rows, () => changedSpans(connection, items))).length > 0) throw new Doubt()
  }
  for (const { items, rows } of pace.slices(accounts.flatMap(tailSpans), rowsOf)) {
    for (const { span, digest } of await pace.time(rows, () => readDigests(connection, items))) {
      if ((digest === '') !== span.high < span.low || digest === '-') throw new Doubt()
      if (digest !== '') span.account.blocks.push({ to: span.high, digest })
    }
  }
  for (const account of accounts) account.compacted = looks
  return before.reduce((sum, { seq }) => sum + Number(seq), 0)
}
