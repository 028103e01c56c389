import { randomInt } from 'node:crypto'
import type { Attachments } from '../../adapters/attachments/client.ts'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { openRedis, pingRedis, type Redis } from '../../adapters/redis/client.ts'
import { deadLetterStreamOf, eventStreamOf, SERVICES } from '../../service.ts'
import { asTenant } from '../sessions/tenant.ts'
import { type FingerprintKey, fingerprintKey, fingerprintsOf } from './fingerprint.ts'
import type { Identifier } from './identifier.ts'
import type { Identifiers } from './identifiers.ts'
import { type InventorySystems, serversOf } from './inventory/check.ts'
import { type LiveTable, readTables } from './inventory/live.ts'
import { recallBound } from './recall.ts'
import { openScanner, type Scanner, type Wanted } from './scanner.ts'
import type { ErasureSecret } from './secret.ts'
import { ENCODINGS, WRITINGS } from './writings.ts'

/** What was read in search of erased subjects' identifiers, and how well the reading finds them. Nothing that it read. */
export interface ResidualScan {
  places: { object: string; rows: number; bytes: number }[]
  rows: number
  bytes: number
  wallS: number
  /** Of the whole pass: reading from the servers, and what the scanner took of it. */
  cpuS: number
  scanCpuS: number
  /** Where an identifier of a subject (by keyed hash, hex) stands still, and of what kind. */
  hits: { subject: string; object: string; kind: string; count: number }[]
  /**
   * Made-up identifiers, written and encoded in every way that is planted, in copies of the very rows that were read, and
   * scanned by the same code. `recall` is the share that was found; at 95 % confidence it is no less than `lowerBound`.
   */
  canaries: { planted: number; found: number; recall: number; lowerBound: number; missed: string[] }
  /** Places within the text that were not decoded to their end. */
  cutShort: number
  /** Places that could not be read, or not whole, and why: what nothing was found in proves nothing. */
  unread: { object: string; why: string }[]
  /** Identifiers of a subject that are another patient's as well, by kind: not searched for. */
  shared: { subject: string; kind: string }[]
}

export interface ScanSystems extends InventorySystems {
  readonly attachments: Attachments | undefined
  erasureSecret(): Promise<ErasureSecret>
}

/** Kept of a subject's identifiers so that they can be searched for when they are destroyed: `scan:<kind>` fingerprints. */
const SCAN = 'scan:'
/** Identifiers that nothing could find among other text; there is no fingerprint of them. */
const UNSEARCHABLE = 'unsearchable:'

/** What `tabib.erasure_fingerprint` keeps for the scan. Names are left out: other people have the same. */
export function scanFingerprints(
  secret: ErasureSecret,
  tenantId: string,
  { subjectId: _, ...identifiers }: Identifiers,
): { kind: string; fingerprint: Buffer }[] {
  const of = (kind: Identifier['kind'], values: readonly string[]) => values.map((value) => ({ kind, value }))
  const { fingerprints, unsearchable } = fingerprintsOf(fingerprintKey(secret.derive('scan'), tenantId), [
    ...of('phone', identifiers.phones),
    ...of('e-mail', identifiers.emails),
    ...of('national-id', identifiers.nationalIds),
  ])
  return [
    ...fingerprints.map(({ kind, fingerprint }) => ({ kind: `${SCAN}${kind}`, fingerprint })),
    ...unsearchable.map(({ kind }) => ({ kind: `${UNSEARCHABLE}${kind}`, fingerprint: Buffer.alloc(0) })),
  ]
}

/** What can be searched for of one subject. */
export async function searchable(
  db: Queryable,
  { tenantId, hash }: { tenantId: string; hash: Buffer },
): Promise<{ fingerprints: { kind: string; fingerprint: Buffer }[]; unsearchable: string[] }> {
  const rows = await db.query<{ kind: string; fingerprint: Buffer }>(
    'select kind, fingerprint from tabib.erasure_fingerprint where tenant_id = $1 and subject_hash = $2 order by kind',
    [tenantId, hash],
  )
  const of = (prefix: string) =>
    rows
      .filter(({ kind }) => kind.startsWith(prefix))
      .map(({ kind, fingerprint }) => ({ kind: kind.slice(prefix.length), fingerprint }))
  return { fingerprints: of(SCAN), unsearchable: of(UNSEARCHABLE).map(({ kind }) => kind) }
}

/**
 * Reads everything that the platform stores of one tenant, and what it stores without a tenant, in search of subjects:
 * every row of every table, classified or not, with all columns that this login may read, every message of the services'
 * streams, every value in Redis whose key names no other tenant, and the attachments. Memory does not grow with it. What a
 * subject shares with a patient who is there, as a family its phone, is not searched for: it is theirs.
 *
 * @throws TabibError POSTGRES_UNREACHABLE, NATS_UNREACHABLE, REDIS_UNREACHABLE.
 */
export async function scanResidue(
  systems: ScanSystems,
  {
    tenantId,
    hashes,
    signal,
    onProgress,
  }: {
    tenantId: string
    hashes: readonly Buffer[]
    signal: AbortSignal
    /** Tables read, of all, and what is read now. */
    onProgress?: ((done: number, all: number, object: string) => void) | undefined
  },
): Promise<ResidualScan> {
  const startedAt = performance.now()
  const cpu = process.cpuUsage()
  const secret = await systems.erasureSecret()
  const key = fingerprintKey(secret.derive('scan'), tenantId)
  const canaries = makeCanaries()
  const wanted: Wanted[] = []
  for (const hash of hashes) {
    const { fingerprints } = await searchable(systems.db, { tenantId, hash })
    wanted.push(...fingerprints.map((one) => ({ subject: hash.toString('hex'), ...one })))
  }
  const others = await livingFingerprints(systems.db, key, wanted, {
    tenantId,
    isSubject: (id) => hashes.some((hash) => hash.equals(secret.subjectHash(tenantId, id))),
  })
  const isShared = ({ fingerprint }: Wanted) => others.has(Buffer.from(fingerprint).toString('hex'))
  const scanner = openScanner(key, [
    ...wanted.filter((one) => !isShared(one)),
    ...canaries.flatMap(({ id, identifier }) =>
      fingerprintsOf(key, [identifier]).fingerprints.map((one) => ({ subject: id, ...one })),
    ),
  ])
  const scan = new Scan(scanner, canaries)
  const tables = await readTables(systems.db)
  for (const [n, table] of tables.entries()) {
    onProgress?.(n, tables.length, table.name)
    const hidden = hiddenOf(table)
    if (hidden !== undefined) scan.unread.push({ object: table.name, why: hidden })
    try {
      await scan.place(table.name, rowsOf(systems.db, table, tenantId), signal)
    } catch (error) {
      const { code, message } = error as { code?: string; message: string }
      // SQLSTATEs, and those that have a name of ours; a server that went away ends the scan.
      if (!/^([0-9A-Z]{5}|NOT_AUTHORISED|MIGRATION_REQUIRED)$/.test(code ?? '')) throw error
      scan.unread.push({ object: table.name, why: message })
    }
  }
  const { nats } = systems
  if (nats === undefined) scan.unread.push({ object: 'JetStream', why: 'no NATS is configured' })
  for (const stream of nats ? STREAMS : [])
    await scan.place(stream, messagesOf(nats!, stream, tenantId), signal)
  if (serversOf(systems.redis).size === 0) scan.unread.push({ object: 'Redis', why: 'none is configured' })
  for (const url of serversOf(systems.redis).keys()) {
    const redis = openRedis({ url })
    await using _closed = { [Symbol.asyncDispose]: async () => redis.disconnect() }
    await pingRedis(redis)
    const notRead = (why: string) => scan.notRead('Redis', why)
    await scan.place('Redis', valuesOf(redis, await isOthers(systems.db, tenantId), notRead), signal)
  }
  if (systems.attachments) await scan.files('attachments', systems.attachments, `${tenantId}/`, signal)
  else if (await hasAttachments(systems.db, tenantId)) {
    scan.unread.push({
      object: 'attachments',
      why: 'rows name some, and erasure.attachments is not configured',
    })
  }
  scan.plantRest()
  const { user, system } = process.cpuUsage(cpu)
  const cpuS = (user + system) / 1e6
  const shared = wanted.filter(isShared).map(({ subject, kind }) => ({ subject, kind }))
  return {
    ...scan.result(),
    shared,
    wallS: (performance.now() - startedAt) / 1e3,
    cpuS,
  }
}

const CANARY = 'canary '
const STREAMS = SERVICES.flatMap((service) => [eventStreamOf(service), deadLetterStreamOf(service)])

interface Canary {
  id: string
  identifier: Identifier
  /** How it is written and encoded, in words. */
  how: string
  /** What is planted: the value of a field, or fields of their own. */
  text: string
  asFields: boolean
}

/** One of each kind in every writing and every encoding that text in a row can have. */
function makeCanaries(): Canary[] {
  const digits = (n: number) => String(randomInt(10 ** n)).padStart(n, '0')
  const make: (() => Identifier)[] = [
    () => ({ kind: 'phone', value: `+937${digits(8)}` }),
    () => ({ kind: 'e-mail', value: `Canary.${digits(9)}@example.af` }),
    () => ({ kind: 'national-id', value: `1400-${digits(4)}-${digits(5)}` }),
  ]
  return WRITINGS.flatMap((writing) =>
    ENCODINGS.flatMap((encoding) =>
      make.flatMap((identifierOf): Canary[] => {
        const identifier = identifierOf()
        const written = writing.write(identifier)
        const text = written === undefined ? undefined : encoding.encode(written)
        if (typeof text !== 'string') return []
        const asFields = text.startsWith('"') && text === written
        const how = `${identifier.kind}, ${writing.name}, ${encoding.name}`
        return [{ id: `${CANARY}${how}`, identifier, how, text, asFields }]
      }),
    ),
  )
}

class Scan {
  rows = 0
  bytes = 0
  readonly unread: ResidualScan['unread'] = []
  readonly #places: ResidualScan['places'] = []
  readonly #hits = new Map<string, ResidualScan['hits'][number]>()
  readonly #missed: string[] = []
  readonly #waiting: Canary[]
  readonly #planted: number
  readonly #scanner: Scanner
  #found = 0
  #scanCpuS = 0
  #sample = '{}'

  constructor(scanner: Scanner, canaries: readonly Canary[]) {
    this.#scanner = scanner
    this.#waiting = [...canaries]
    this.#planted = canaries.length
  }

  /** Once for a reason, however often it is met. */
  notRead(object: string, why: string): void {
    if (!this.unread.some((one) => one.object === object && one.why === why))
      this.unread.push({ object, why })
  }

  async place(object: string, batches: AsyncIterable<string[]>, signal: AbortSignal): Promise<void> {
    const place = { object, rows: 0, bytes: 0 }
    for await (const batch of batches) {
      signal.throwIfAborted()
      const cpu = process.cpuUsage()
      // In one piece, a row a line: each call has a cost of its own.
      const text = Buffer.from(batch.join('\n'))
      place.bytes += text.length
      this.#take(object, text)
      const { user, system } = process.cpuUsage(cpu)
      this.#scanCpuS += (user + system) / 1e6
      if (place.rows === 0 && batch[0] !== undefined) {
        this.#sample = batch[0]
        // Every place that has rows gets some, the last whatever is left.
        for (const canary of this.#waiting.splice(0, CANARIES_A_PLACE)) this.#plant(canary)
      }
      place.rows += batch.length
    }
    this.rows += place.rows
    this.bytes += place.bytes
    if (place.rows > 0) this.#places.push(place)
  }

  /** Files, by name and content. */
  async files(object: string, files: Attachments, prefix: string, signal: AbortSignal): Promise<void> {
    const place = { object, rows: 0, bytes: 0 }
    for (const key of await files.list(prefix)) {
      signal.throwIfAborted()
      const { size, chunks } = await files.read(key)
      const cpu = process.cpuUsage()
      this.#take(object, Buffer.from(key))
      try {
        for await (const hit of this.#scanner.stream(chunks)) this.#count(object, hit)
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (code === undefined) throw error
        // The key says whose it is, and the system's message repeats it. What is gone since it was listed is gone.
        if (code !== 'ENOENT') this.notRead(object, `a file: ${code}`)
      }
      const { user, system } = process.cpuUsage(cpu)
      this.#scanCpuS += (user + system) / 1e6
      place.rows += 1
      place.bytes += size
    }
    this.rows += place.rows
    this.bytes += place.bytes
    if (place.rows > 0) this.#places.push(place)
  }

  plantRest(): void {
    for (const canary of this.#waiting.splice(0)) this.#plant(canary)
  }

  result(): Omit<ResidualScan, 'wallS' | 'cpuS' | 'shared'> {
    const [planted, found] = [this.#planted, this.#found]
    return {
      places: this.#places,
      rows: this.rows,
      bytes: this.bytes,
      scanCpuS: this.#scanCpuS,
      hits: [...this.#hits.values()],
      canaries: {
        planted,
        found,
        recall: found / planted,
        lowerBound: recallBound(found, planted),
        missed: this.#missed,
      },
      cutShort: this.#scanner.cutShort,
      unread: this.unread,
    }
  }

  #take(object: string, text: Buffer): void {
    for (const hit of this.#scanner.scan(text)) this.#count(object, hit)
  }

  #count(object: string, { subject, kind }: { subject: string; kind: string }): void {
    if (subject.startsWith(CANARY)) return
    const key = `${subject} ${object} ${kind}`
    const hit = this.#hits.get(key) ?? { subject, object, kind, count: 0 }
    hit.count += 1
    this.#hits.set(key, hit)
  }

  /** Puts it into a copy of a row that was read, at a place of its own, and reads that as all others. */
  #plant({ id, how, text, asFields }: Canary): void {
    const at = this.#sample.lastIndexOf('}')
    const before = this.#sample.slice(0, at)
    const field = asFields ? text : `"note":${JSON.stringify(`seen ${text} today`)}`
    const row = `${before}${before.trim() === '{' ? '' : ','}${field}${this.#sample.slice(at)}`
    if (this.#scanner.scan(row).some(({ subject }) => subject === id)) this.#found += 1
    else this.#missed.push(how)
  }
}

const CANARIES_A_PLACE = 32
const BATCH_ROWS = 200

/** What this login cannot see of a table, in words. */
function hiddenOf({ columns, hidden }: LiveTable): string | undefined {
  if (hidden) return 'row-level security shows this login none of its rows'
  const names = columns.filter(({ readable }) => !readable).map(({ name }) => name)
  return names.length === 0 ? undefined : `this login may not read ${names.join(', ')}`
}

async function hasAttachments(db: Database, tenantId: string): Promise<boolean> {
  const rows = await asTenant(db, tenantId, (tx) =>
    tx.query('select from communication.attachment where tenant_id = $1 limit 1', [tenantId]),
  )
  return rows.length > 0
}

/** Rows as JSON, those of the tenant alone where a table says whose they are. */
async function* rowsOf(db: Database, table: LiveTable, tenantId: string): AsyncGenerator<string[]> {
  const columns = table.columns.filter(({ readable }) => readable)
  if (columns.length === 0) return
  const quote = (name: string) => `"${name.replaceAll('"', '""')}"`
  const list = columns.map(({ name, holds }) =>
    holds === 'bytes' ? `encode(t.${quote(name)}, 'hex') as ${quote(name)}` : `t.${quote(name)}`,
  )
  const ofTenant = table.columns.some(({ name, readable }) => name === 'tenant_id' && readable)
  await using connection = await db.connection()
  await connection.query('begin read only')
  try {
    await connection.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await connection.query(
      `declare scanned no scroll cursor for
       select row_to_json(r)::text as row from (select ${list.join(', ')} from ${table.name} t
         ${ofTenant ? `where t.tenant_id = '${tenantId}'` : ''}) r`,
    )
    for (;;) {
      const rows = await connection.query<{ row: string }>(`fetch ${BATCH_ROWS} from scanned`)
      if (rows.length === 0) return
      yield rows.map(({ row }) => row)
    }
  } finally {
    await connection.query('rollback')
  }
}

/** Messages with their subjects and headers, which may tell of somebody as well. */
async function* messagesOf(nats: Nats, stream: string, tenantId: string): AsyncGenerator<string[]> {
  let batch: string[] = []
  for await (const { subject, headers, payload } of nats.messages(stream, 0, { payloads: true })) {
    // Whatever names no tenant may be anybody's.
    if ((headers.get('tenant_id') ?? tenantId) !== tenantId) continue
    batch.push(`${subject} ${JSON.stringify(Object.fromEntries(headers))} ${textOrHex(payload)}`)
    if (batch.length < BATCH_ROWS) continue
    yield batch
    batch = []
  }
  if (batch.length > 0) yield batch
}

/** What is no UTF-8, compressed for one, in hex. */
function textOrHex(bytes: Uint8Array): string {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const text = buffer.toString()
  return text.includes('\ufffd') ? buffer.toString('hex') : text
}

/** Whether a key is of other tenants alone; of one that names none nobody knows whose it is. */
async function isOthers(db: Queryable, tenantId: string): Promise<(key: string) => boolean> {
  const tenants = await db.query<{ id: string }>('select id from tabib.tenant where id <> $1', [tenantId])
  const others = new Set(tenants.map(({ id }) => id))
  return (key) =>
    !key.includes(tenantId) && (key.match(UUID) ?? []).some((id) => others.has(id.toLowerCase()))
}
const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi

/** Values of all keys that are not others', each with its key, since either may tell of somebody. */
async function* valuesOf(
  redis: Redis,
  isOthers: (key: string) => boolean,
  notRead: (why: string) => void,
): AsyncGenerator<string[]> {
  let cursor = '0'
  do {
    const [next, found] = await redis.scanBuffer(cursor, 'COUNT', 1_000)
    const keys = found.filter((key) => !isOthers(key.toString()))
    cursor = next.toString()
    for (let from = 0; from < keys.length; from += BATCH_ROWS) {
      const batch = keys.slice(from, from + BATCH_ROWS)
      yield await Promise.all(
        batch.map(async (key) =>
          JSON.stringify({ key: textOrHex(key), value: await contentOf(redis, key, notRead) }),
        ),
      )
    }
  } while (cursor !== '0')
}

async function contentOf(redis: Redis, key: Buffer, notRead: (why: string) => void): Promise<unknown> {
  const type = await redis.type(key)
  switch (type) {
    case 'string':
      return textOrHex((await redis.getBuffer(key)) ?? Buffer.alloc(0))
    case 'hash':
      return Object.entries(await redis.hgetallBuffer(key)).map(([field, value]) => [field, textOrHex(value)])
    case 'list':
      return (await redis.lrangeBuffer(key, 0, -1)).map(textOrHex)
    case 'set':
      return (await redis.smembersBuffer(key)).map(textOrHex)
    case 'zset':
      // A score is a number, and so is what somebody is called by.
      return (await redis.zrangeBuffer(key, '0', '-1', 'WITHSCORES')).map(textOrHex)
    case 'stream':
      return (await redis.xrangeBuffer(key, '-', '+')).map(([id, fields]) => [
        textOrHex(id),
        fields.map(textOrHex),
      ])
    // Gone since it was listed.
    case 'none':
      return null
    default:
      notRead(`a value of the type ${type}`)
      return null
  }
}

/** Fingerprints, in hex, of what other patients have who are there: of those that are wanted alone. */
async function livingFingerprints(
  db: Database,
  key: FingerprintKey,
  wanted: readonly Wanted[],
  { tenantId, isSubject }: { tenantId: string; isSubject(patientId: string): boolean },
): Promise<Set<string>> {
  const asked = new Set(wanted.map(({ fingerprint }) => Buffer.from(fingerprint).toString('hex')))
  const living = new Set<string>()
  if (asked.size === 0) return living
  await using connection = await db.connection()
  await connection.query('begin read only')
  try {
    await connection.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await connection.query(
      `declare living no scroll cursor for
       select id, phone, email as "e-mail", national_id as "national-id" from virtual_care.patient
       where tenant_id = '${tenantId}'`,
    )
    for (;;) {
      const rows = await connection.query<Record<string, string | null>>(`fetch ${BATCH_ROWS} from living`)
      if (rows.length === 0) return living
      for (const row of rows) {
        const identifiers = (['phone', 'e-mail', 'national-id'] as const).flatMap((kind): Identifier[] =>
          row[kind] ? [{ kind, value: row[kind] }] : [],
        )
        const same = fingerprintsOf(key, identifiers)
          .fingerprints.map(({ fingerprint }) => fingerprint.toString('hex'))
          .filter((hex) => asked.has(hex))
        if (same.length > 0 && !isSubject(row.id!)) for (const hex of same) living.add(hex)
      }
    }
  } finally {
    await connection.query('rollback')
  }
}
