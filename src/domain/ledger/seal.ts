import { createHash } from 'node:crypto'
import {
  type FileHandle,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  writeFile,
} from 'node:fs/promises'
import { join } from 'node:path'
import { compactVerify, importJWK } from 'jose'
import * as z from 'zod'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { KeyPolicy } from '../keys/phase.ts'
import { signToken } from '../keys/sign.ts'

/** Keeps a seal from passing for another kind of token (RFC 8725 section 3.11). */
const SEAL_TYPE = 'tabib-ledger-seal+jws'
/** Whose active key signs seals. */
export const SEAL_PURPOSE = 'ledger-seal'
/** A key whose tokens live so long is still in the store when the next pass looks for it. */
export const SEAL_LIFETIME_S = 8 * 86_400
/** What its key is made with. */
export const SEAL_KEY_POLICY: KeyPolicy = {
  overlapS: 9 * 86_400,
  cacheAgeS: 600,
  skewS: 30,
  tokenLifetimeS: SEAL_LIFETIME_S,
  allAttest: true,
}
/** A snapshot that sees nothing: an unsealed ledger is new from its first row on. */
export const NOTHING_SEALED = '3:3:'
// The last and the one before, for whoever wants to compare; their heads are kept for ever.
const CONTENTS_KEPT = 2
const CHUNK_BYTES = 262_144
const NEWLINE = 10
const SPACE = 32

const headSchema = z.object({
  n: z.int().min(1),
  /** SHA-256 of the seal before, in hex. */
  previous: z.string().nullable(),
  /** SHA-256 of the content. */
  content: z.string(),
  /** System identifier of the cluster whose transaction ids `snapshot` counts in. */
  cluster: z.string(),
  /** `pg_snapshot`: everything that it sees is sealed. */
  snapshot: z.string(),
  accounts: z.number(),
  entries: z.number(),
  transactions: z.number(),
  /** Of triggers, constraints, policies and functions that guard the ledger. */
  guards: z.string(),
  /** Of what the transactions that it saw are said to have mended; seals of before know nothing of it. */
  mended: z.string().optional(),
  /** How many passes have looked at what was sealed, and at which of them the account was read whose turn is longest ago. */
  looks: z.number().optional(),
  compacted: z.number().optional(),
  iat: z.number(),
})
export type SealHead = z.output<typeof headSchema>

/** A seal whose signature and content were found whole. */
export interface Seal extends SealHead {
  /** SHA-256 of its JWS: what the next one names as the one before. */
  digest: string
  path: string
  /** False after a restore into another cluster: its transaction ids mean nothing here. */
  ofThisCluster: boolean
}

/** Consecutive entries of an account up to `to`, and the SHA-256 of what they say. */
export interface Block {
  to: bigint
  digest: string
}

/** What a seal says of one account. */
export interface SealedAccount {
  tenantId: string
  accountId: string
  /** Percent-encoded where it has a space. */
  code: string
  currency: string
  openingMinor: bigint
  seq: bigint
  balanceMinor: bigint
  blocks: Block[]
  /** The `pg_snapshot` in which it held last, where that is not the seal's own: it is held back until it does again. */
  heldAt?: string | undefined
  /** The look at which all its entries were in its blocks; what came later is in stretches. */
  compacted: number
}

/**
 * Accounts of one tenant in their order, column by column, each a list with commas: as a page they are compared, counted
 * and passed on without being taken apart. Accounts with more than one block, or held back, are not in one.
 */
export interface AccountPage {
  tenantId: string
  /** Of the account whose turn is longest ago. */
  compacted: number
  ids: string
  currencies: string
  openings: string
  codes: string
  seqs: string
  balances: string
  /** Up to where the block of each goes, 0 where there is none, and its digest. */
  tos: string
  digests: string
}

/**
 * Entries of transactions that began between two moments, of those that `until` sees and `since` does not, in the order of
 * posting. They are sealed so, which costs a tenth, until their accounts have their turn to be read.
 */
export interface Stretch {
  /** `pg_snapshot`, as `until`. */
  since: string
  until: string
  from: Date
  to: Date
  count: number
  digest: string
  /** The first look from which on an account's blocks have its entries. */
  look: number
}

/** Transactions between two places in the order of (xid, id), of those that `until` sees and `since` does not. */
export interface SealedTransactions {
  /** `pg_snapshot`, as `until`. */
  since: string
  until: string
  from: { xid: string; id: string }
  to: { xid: string; id: string }
  count: number
  digest: string
}

/** What is wrong with the seals themselves, in words, and whether the last one may still be compared with. */
export interface SealState {
  seal: Seal | undefined
  problems: string[]
}

/**
 * The last seal in the folder. It is believed only if the key store itself holds the key that signed it: what the
 * database says of keys, whoever rewrites the ledger can rewrite as well.
 * @throws TabibError NOT_FOUND when the folder cannot be read, KEY_STORE_UNREACHABLE.
 */
export async function readLastSeal(
  { db, keyStore }: { db: Queryable; keyStore: KeyStore },
  folder: string,
): Promise<SealState> {
  await mkdir(folder, { recursive: true }).catch((cause) => {
    throw unreadable(folder, cause)
  })
  const [remembered] = await db.query<{ n: number; digest: string }>(
    'select n::float8 as n, digest from tabib.ledger_seal order by n desc limit 1',
  )
  if (remembered) await finishWriting(folder, remembered)
  const heads = await listHeads(folder)
  const n = heads.at(-1)
  if (n === undefined) {
    return {
      seal: undefined,
      problems: remembered ? [`the folder is empty, and seal ${remembered.n} was in it`] : [],
    }
  }
  const problems: string[] = []
  const jws = await readHead(folder, n)
  const digest = sha256(jws)
  let head: SealHead | undefined
  try {
    head = await believe(keyStore, jws)
    if (head.n !== n) throw new Error(`it says of itself that it is seal ${head.n}`)
    const content = await digestOf(contentPath(folder, n))
    if (content !== head.content) throw new Error('its content was changed or is gone')
  } catch (error) {
    if (error instanceof TabibError && error.code !== 'NOT_FOUND') throw error
    return { seal: undefined, problems: [`seal ${n} is not believed: ${(error as Error).message}`] }
  }
  if (remembered === undefined || remembered.n < n) {
    problems.push(
      `the database knows of ${remembered ? `seal ${remembered.n}` : 'no seal'}, and seal ${n} lies in the folder: it was restored, or its own record of seals was deleted`,
    )
  } else if (remembered.n > n) {
    problems.push(`seal ${remembered.n} is gone, the last one in the folder is ${n}`)
  } else if (remembered.digest !== digest) {
    problems.push(`seal ${n} is another than the one that was written`)
  }
  if (head.previous !== null) {
    const before = heads.at(-2) === n - 1 ? sha256(await readHead(folder, n - 1)) : undefined
    if (before !== head.previous)
      problems.push(`seal ${n - 1}, which seal ${n} names, was changed or is gone`)
  }
  const ofThisCluster = head.cluster === (await clusterOf(db))
  if (!ofThisCluster)
    problems.push(`seal ${n} was made in another cluster: this database was restored from a copy`)
  return { seal: { ...head, digest, path: contentPath(folder, n), ofThisCluster }, problems }
}

/** Seconds since the last seal, as the database remembers it; undefined where there is none. */
export async function sealAge({ db }: { db: Queryable }): Promise<number | undefined> {
  const [row] = await db.query<{ ageS: number | null }>(
    `select extract(epoch from clock_timestamp() - max(sealed_at))::float8 as "ageS" from tabib.ledger_seal`,
  )
  return row?.ageS ?? undefined
}

async function clusterOf(db: Queryable): Promise<string> {
  const [row] = await db.query<{ cluster: string }>(
    'select system_identifier::text as cluster from pg_control_system()',
  )
  return row!.cluster
}

/** Lines of a seal's content by their first letters, in batches: first transactions, then stretches, suspects and accounts. */
export async function* sealLines(path: string, kinds: 't' | 'e' | 's' | 'ap'): AsyncGenerator<string[]> {
  await using file = await open(path)
  for await (const lines of linesOf(file)) {
    const wanted = lines.filter((line) => kinds.includes(line[0]!))
    if (wanted.length > 0) yield wanted
    else if (kinds !== 'ap' && 'ap'.includes(lines[0]![0]!)) return
  }
}

/** Accounts of a seal in their order: pages, and by themselves those that are in none. */
export async function* sealedAccounts({ path }: Seal): AsyncGenerator<AccountPage | SealedAccount> {
  for await (const lines of sealLines(path, 'ap')) {
    for (const line of lines) yield line.startsWith('p') ? parsePage(line) : parseAccount(line)
  }
}

/** @see Stretch */
export async function sealedStretches({ path }: Seal): Promise<Stretch[]> {
  const stretches: Stretch[] = []
  for await (const lines of sealLines(path, 'e')) stretches.push(...lines.map(parseStretch))
  return stretches
}

/** Whole lines, as many at once as a chunk has. */
async function* linesOf(file: FileHandle): AsyncGenerator<string[]> {
  let buffer = Buffer.allocUnsafe(CHUNK_BYTES)
  for (let kept = 0; ; ) {
    const { bytesRead } = await file.read(buffer, kept, buffer.length - kept)
    if (bytesRead === 0) return
    const filled = kept + bytesRead
    const end = buffer.lastIndexOf(NEWLINE, filled - 1) + 1
    if (end > 1) yield buffer.toString('utf8', 0, end - 1).split('\n')
    kept = filled - end
    if (end > 0) buffer.copyWithin(0, end, filled)
    // A line of an account with many entries.
    else if (kept === buffer.length) buffer = Buffer.concat([buffer, Buffer.allocUnsafe(buffer.length)])
  }
}

/** What a seal says of one account; undefined for one that it does not know. */
export async function readSealedAccount(
  { path }: Seal,
  { tenantId, id }: { tenantId: string; id: string },
): Promise<SealedAccount | undefined> {
  for await (const lines of sealLines(path, 'ap')) {
    for (const line of lines) {
      if (line.startsWith(`a ${tenantId} ${id} `)) return parseAccount(line)
      if (!line.startsWith(`p ${tenantId} `) || !line.includes(id)) continue
      const account = accountsOf(parsePage(line)).find(({ accountId }) => accountId === id)
      if (account) return account
    }
  }
  return undefined
}

/** Writes a seal's content line by line; `sign` makes it a seal, and without that it leaves nothing behind. */
export interface SealWriter extends AsyncDisposable {
  write(line: string): Promise<void> | undefined
  /** The same of a line's words, which need not be made one text before. */
  write(words: readonly string[]): Promise<void> | undefined
  /** As if nothing had been written yet. */
  restart(): Promise<void>
  /**
   * Signs it, and puts it beside the others unless another pass was faster. A crash in the middle is made good by the
   * next `readLastSeal`.
   * @throws TabibError NOT_FOUND or OVERLAP_TOO_SHORT without a key for it, LOCKED when another pass was faster.
   */
  sign(head: Omit<SealHead, 'n' | 'previous' | 'content' | 'cluster' | 'iat'>): Promise<{ n: number }>
}

/** @throws TabibError NOT_FOUND when the folder cannot be written to. */
export async function writeSeal(
  { db, keyStore }: { db: Queryable; keyStore: KeyStore },
  { folder }: { folder: string },
): Promise<SealWriter> {
  // The numbers go on after whatever lies there, believed or not: nothing is ever overwritten.
  const [remembered] = await db.query<{ n: number }>(
    'select coalesce(max(n), 0)::float8 as n from tabib.ledger_seal',
  )
  const n = Math.max(remembered!.n, (await listHeads(folder)).at(-1) ?? 0) + 1
  // Null after one that is gone, which `reseal` went past.
  const previous = n === 1 ? null : await readHead(folder, n - 1).then(sha256, () => null)
  const draft = `${contentPath(folder, n)}.${process.pid}.draft`
  const begin = () =>
    open(draft, 'w', 0o600).catch((cause) => {
      throw unreadable(folder, cause)
    })
  let file = await begin()
  let hash = createHash('sha256')
  let buffer = Buffer.allocUnsafe(2 * CHUNK_BYTES)
  let size = 0
  const flush = async () => {
    const bytes = buffer.subarray(0, size)
    size = 0
    hash.update(bytes)
    await file.writeFile(bytes)
  }
  return {
    write(line: string | readonly string[]) {
      const words = typeof line === 'string' ? [line] : line
      // A character is three bytes at most, or two are four.
      const needed = words.reduce((sum, { length }) => sum + 3 * length + 1, 0)
      if (buffer.length - size < needed) buffer = Buffer.concat([buffer.subarray(0, size)], size + 2 * needed)
      for (const word of words) {
        size += buffer.write(word, size)
        buffer[size++] = SPACE
      }
      buffer[size - 1] = NEWLINE
      return size < CHUNK_BYTES ? undefined : flush()
    },
    async restart() {
      await file.close()
      file = await begin()
      hash = createHash('sha256')
      size = 0
    },
    async sign(head) {
      await flush()
      await file.sync()
      const { token } = await signToken(
        { db, keyStore },
        {
          purpose: SEAL_PURPOSE,
          typ: SEAL_TYPE,
          lifetimeS: SEAL_LIFETIME_S,
          claims: { ...head, cluster: await clusterOf(db), n, previous, content: hash.digest('hex') },
        },
      )
      const digest = sha256(token)
      await writeFile(draftOf(headPath(folder, n), digest), token, { mode: 0o600 })
      await rename(draft, draftOf(contentPath(folder, n), digest))
      const recorded = await db.query(
        'insert into tabib.ledger_seal (n, digest) values ($1, $2) on conflict do nothing returning n',
        [n, digest],
      )
      if (recorded.length === 0) {
        throw new TabibError('LOCKED', `another verification has written seal ${n} meanwhile`, {
          retryable: true,
        })
      }
      await finishWriting(folder, { n, digest })
      await rm(contentPath(folder, n - CONTENTS_KEPT), { force: true })
      return { n }
    },
    async [Symbol.asyncDispose]() {
      await file.close()
      await rm(draft, { force: true })
    },
  }
}

/** The database remembers a seal before its files have their names: a crash between the two is made good here. */
async function finishWriting(folder: string, { n, digest }: { n: number; digest: string }): Promise<void> {
  for (const path of [contentPath(folder, n), headPath(folder, n)]) {
    // Not over one that is there.
    await link(draftOf(path, digest), path).catch(() => undefined)
    await rm(draftOf(path, digest), { force: true })
  }
}

async function believe(keyStore: KeyStore, jws: string): Promise<SealHead> {
  const { kid } = JSON.parse(Buffer.from(jws.split('.')[0] ?? '', 'base64url').toString() || '{}')
  if (typeof kid !== 'string') throw new Error('it does not name the key that signed it')
  const key = await keyStore.find(kid).catch((error) => {
    if (error instanceof TabibError && error.code === 'NOT_FOUND') {
      throw new Error(`the key store holds no key ${kid}`)
    }
    throw error
  })
  const { payload, protectedHeader } = await compactVerify(
    jws,
    await importJWK(key.publicJwk, key.algorithm),
    {
      algorithms: [key.algorithm],
    },
  )
  if (protectedHeader.typ !== SEAL_TYPE) throw new Error(`it is a "${protectedHeader.typ}"`)
  return headSchema.parse(JSON.parse(new TextDecoder().decode(payload)))
}

async function listHeads(folder: string): Promise<number[]> {
  const names = await readdir(folder).catch((cause) => {
    throw unreadable(folder, cause)
  })
  return names
    .flatMap((name) => /^(\d+)\.seal$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b)
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  await using file = await open(path)
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES)
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length)
    if (bytesRead === 0) return hash.digest('hex')
    hash.update(buffer.subarray(0, bytesRead))
  }
}

const headPath = (folder: string, n: number) => join(folder, `${String(n).padStart(8, '0')}.seal`)
const contentPath = (folder: string, n: number) => join(folder, `${String(n).padStart(8, '0')}.content`)
const draftOf = (path: string, digest: string) => `${path}.${digest.slice(0, 16)}.draft`
const readHead = async (folder: string, n: number) => (await readFile(headPath(folder, n), 'utf8')).trim()
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

const unreadable = (folder: string, cause: NodeJS.ErrnoException) =>
  new TabibError('NOT_FOUND', `the folder of ledger seals ${folder} cannot be used: ${cause.code}`, {
    cause,
    suggestions: ['export TABIB_LEDGER_SEALS=<folder>'],
  })

/** Of `billing.account a`: the code as one word of a list. */
export const ACCOUNT_CODE = `replace(replace(replace(replace(a.code, '%', '%25'), ' ', '%20'), ',', '%2C'), E'\\n', '%0A')`

/** An account by itself, as a line of the content. */
export function formatAccount(account: SealedAccount): string {
  const {
    tenantId,
    accountId,
    currency,
    openingMinor,
    code,
    seq,
    balanceMinor,
    heldAt = '-',
    blocks,
    compacted,
  } = account
  const digests = blocks.map(({ to, digest }) => `${to}:${digest}`).join(',')
  return `a ${tenantId} ${accountId} ${currency} ${openingMinor} ${code} ${seq} ${balanceMinor} ${heldAt} ${digests} ${compacted}`
}

/** @see formatAccount; seals of before have no `compacted`, and codes with commas. */
export function parseAccount(line: string): SealedAccount {
  const [
    ,
    tenantId,
    accountId,
    currency,
    openingMinor,
    code,
    seq,
    balanceMinor,
    heldAt,
    digests,
    compacted = '0',
  ] = line.split(' ')
  return {
    tenantId: tenantId!,
    accountId: accountId!,
    currency: currency!,
    openingMinor: BigInt(openingMinor!),
    code: code!.replaceAll(',', '%2C'),
    seq: BigInt(seq!),
    balanceMinor: BigInt(balanceMinor!),
    heldAt: heldAt === '-' ? undefined : heldAt,
    blocks:
      digests === ''
        ? []
        : digests!.split(',').map((one) => ({ to: BigInt(one.slice(0, -65)), digest: one.slice(-64) })),
    compacted: Number(compacted),
  }
}

/** A page of accounts as the words of a line of the content. */
export function formatPage(page: AccountPage): string[] {
  const { tenantId, compacted, ids, currencies, openings, codes, seqs, balances, tos, digests } = page
  return ['p', tenantId, String(compacted), ids, currencies, openings, codes, seqs, balances, tos, digests]
}

/** @see formatPage */
export function parsePage(line: string): AccountPage {
  const [, tenantId, compacted, ids, currencies, openings, codes, seqs, balances, tos, digests] = line.split(
    ' ',
  ) as [string, string, string, string, string, string, string, string, string, string, string]
  return {
    tenantId,
    compacted: Number(compacted),
    ...{ ids, currencies, openings, codes, seqs, balances, tos, digests },
  }
}

/** Its accounts one by one. */
export function accountsOf(page: AccountPage): SealedAccount[] {
  const { tenantId, compacted } = page
  const lists = [page.currencies, page.openings, page.codes, page.seqs, page.balances, page.tos, page.digests]
  const [currencies, openings, codes, seqs, balances, tos, digests] = lists.map((list) => list.split(','))
  return page.ids.split(',').map((accountId, i) => {
    const to = BigInt(tos![i]!)
    return {
      tenantId,
      accountId,
      currency: currencies![i]!,
      openingMinor: BigInt(openings![i]!),
      code: codes![i]!,
      seq: BigInt(seqs![i]!),
      balanceMinor: BigInt(balances![i]!),
      blocks: to === 0n ? [] : [{ to, digest: digests![i]! }],
      compacted,
    }
  })
}

/** Accounts of one tenant, as `accountsOf` takes them apart. */
export const pageOf = (accounts: SealedAccount[]): AccountPage => ({
  tenantId: accounts[0]!.tenantId,
  compacted: accounts.reduce((least, { compacted }) => Math.min(least, compacted), Number.MAX_SAFE_INTEGER),
  ids: accounts.map(({ accountId }) => accountId).join(),
  currencies: accounts.map(({ currency }) => currency).join(),
  openings: accounts.map(({ openingMinor }) => openingMinor).join(),
  codes: accounts.map(({ code }) => code).join(),
  seqs: accounts.map(({ seq }) => seq).join(),
  balances: accounts.map(({ balanceMinor }) => balanceMinor).join(),
  tos: accounts.map(({ blocks }) => blocks[0]?.to ?? 0n).join(),
  digests: accounts.map(({ blocks }) => blocks[0]?.digest ?? '').join(),
})

/** A stretch of entries as a line of the content. */
export function formatStretch({ since, until, from, to, count, digest, look }: Stretch): string {
  return `e ${since} ${until} ${from.getTime()} ${to.getTime()} ${count} ${digest} ${look}`
}

/** @see formatStretch */
function parseStretch(line: string): Stretch {
  const [, since, until, from, to, count, digest, look] = line.split(' ')
  return {
    since: since!,
    until: until!,
    from: new Date(Number(from)),
    to: new Date(Number(to)),
    count: Number(count),
    digest: digest!,
    look: Number(look),
  }
}

/** A block of transactions as a line of the content. */
export function formatTransactions({ since, until, from, to, count, digest }: SealedTransactions): string {
  return `t ${since} ${until} ${from.xid} ${from.id} ${to.xid} ${to.id} ${count} ${digest}`
}

/** @see formatTransactions */
export function parseTransactions(line: string): SealedTransactions {
  const [, since, until, fromXid, fromId, toXid, toId, count, digest] = line.split(' ')
  return {
    since: since!,
    until: until!,
    from: { xid: fromXid!, id: fromId! },
    to: { xid: toXid!, id: toId! },
    count: Number(count),
    digest: digest!,
  }
}

/** A transaction that does not hold, as a line of the content. */
export function formatSuspect({ tenantId, id }: { tenantId: string; id: string }): string {
  return `s ${tenantId} ${id}`
}

/** @see formatSuspect */
export function parseSuspect(line: string): { tenantId: string; id: string } {
  const [, tenantId, id] = line.split(' ')
  return { tenantId: tenantId!, id: id! }
}
