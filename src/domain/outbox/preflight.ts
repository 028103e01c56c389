import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import * as z from 'zod'
import { TabibError } from '../../errors.ts'
import { SERVICES } from '../../service.ts'
import type { Call } from '../idempotency/key.ts'

/** A write that was accepted while Postgres took none: the call as its Idempotency-Key names it, and what it asks for. */
export interface AcceptedWrite {
  /** Of what it makes; derived from the call, so that whoever makes it again makes the same. */
  id: string
  acceptedAt: Date
  call: Call
  asked: unknown
}

/** What waits in a folder. */
export interface PreflightState {
  waiting: number
  /** Of everything in the folder, against its limit. */
  bytes: number
  oldestAt: Date | undefined
  /** Writes that Postgres refused for good when they were drained, with their reasons. */
  refused: number
  /** Files with a record that is not as it was written, and others behind it. */
  damaged: number
}

/** One process's way into a folder. */
export interface Preflight extends AsyncDisposable {
  readonly folder: string
  /**
   * Appends a write; it is on the disk for good when this returns. Many at once share one flush.
   * @throws TabibError PREFLIGHT_FULL when the folder is at its limit or its disk is full or fails: it may then be
   * there or not, as after any error that says nothing of the outcome.
   */
  accept(write: AcceptedWrite): Promise<void>
  /** What this process accepted for the same tenant, route and key, as long as anything waits. */
  acceptedBefore(call: Call): AcceptedWrite | undefined
  /** Whether anything waits, of this process or of another. */
  hasWaiting(): Promise<boolean>
}

// A segment is `<time>-<pid>-<random>.open` while a process appends to it. Whoever drains renames it to `.sealed` first:
// that is the only lock. What was on the disk before the rename, the drainer reads; whoever appends looks after its flush
// whether the name is still there, and appends to another segment otherwise.
const OPEN = '.open'
const SEALED = '.sealed'
const REFUSED = '.refused'
const DAMAGED = '.damaged'
const SEGMENT_BYTES = 1 << 20
const MAGIC = 0x54425046
const HEADER_BYTES = 12
const MOST_TRIES = 50
const LONGEST_PAUSE_MS = 20
const UNDER_WAY_POLLS = 250
// Nobody is about to write to a segment that is empty for so long.
const ABANDONED_MS = 60_000

/** Opens lazily: the folder is made by the first write. */
export function openPreflight({ folder, maxBytes }: { folder: string; maxBytes: number }): Preflight {
  let segment: Segment | undefined
  let queue: Pending[] = []
  let flushing: Promise<void> | undefined
  const held = new Map<string, AcceptedWrite>()

  const flush = async (): Promise<void> => {
    while (queue.length > 0) {
      const batch = queue
      queue = []
      try {
        const { fitting, left } = split(batch, maxBytes - (await bytesIn(folder)))
        if (fitting.length > 0) await store(Buffer.concat(fitting.map(({ frame }) => frame)))
        for (const { write, resolve } of fitting) {
          held.set(nameOf(write.call), write)
          resolve()
        }
        for (const { reject } of left) reject(full(folder, `it holds its limit of ${maxBytes} bytes`))
      } catch (cause) {
        for (const { reject } of batch) reject(full(folder, reasonOf(cause), cause))
      }
    }
    // At once: whoever was just answered may ask for the next before anything else happens.
    flushing = undefined
  }

  const store = async (bytes: Buffer): Promise<void> => {
    for (let attempt = 0; attempt < MOST_TRIES; attempt += 1) {
      segment ??= await newSegment(folder)
      const current = segment
      try {
        await append(current.file, bytes, current.size)
        await current.file.datasync()
      } catch (cause) {
        // After a failed flush nobody knows what the disk has: the next write goes elsewhere.
        segment = undefined
        await current.file.truncate(current.size).catch(() => {})
        await current.file.close().catch(() => {})
        if (current.size === 0) await rm(current.path, { force: true }).catch(() => {})
        throw cause
      }
      current.size += bytes.length
      const sealed = !(await isNamed(current))
      if (sealed || current.size >= SEGMENT_BYTES) {
        segment = undefined
        await current.file.close()
      }
      if (!sealed) return
      await delay(Math.random() * LONGEST_PAUSE_MS)
    }
    throw new Error('it is drained faster than it can be written to')
  }

  return {
    folder,
    accept: (write) =>
      new Promise((resolve, reject) => {
        queue.push({ write, frame: frameOf(write), resolve, reject })
        flushing ??= flush()
      }),
    async [Symbol.asyncDispose]() {
      await flushing
      await segment?.file.close()
      segment = undefined
    },
    acceptedBefore: (call) => held.get(nameOf(call)),
    async hasWaiting() {
      const waiting = (await segmentsIn(folder)).some(({ size }) => size > 0)
      if (!waiting && !flushing) held.clear()
      return waiting
    },
  }
}

interface Pending {
  write: AcceptedWrite
  frame: Buffer
  resolve(): void
  reject(error: Error): void
}

interface Segment {
  path: string
  file: FileHandle
  inode: number
  size: number
}

const nameOf = ({ service, tenantId, route, key }: Call): string => [service, tenantId, route, key].join(' ')

/** What of a batch there is room for, in order. */
function split(batch: Pending[], roomBytes: number): { fitting: Pending[]; left: Pending[] } {
  let used = 0
  const first = batch.findIndex(({ frame }) => {
    used += frame.length
    return used > roomBytes
  })
  return first < 0
    ? { fitting: batch, left: [] }
    : { fitting: batch.slice(0, first), left: batch.slice(first) }
}

async function newSegment(folder: string): Promise<Segment> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const name = `${String(Date.now()).padStart(15, '0')}-${process.pid}-${randomBytes(4).toString('hex')}${OPEN}`
  const path = join(folder, name)
  const file = await open(path, 'wx', 0o600)
  await syncFolder(folder)
  return { path, file, inode: (await file.stat()).ino, size: 0 }
}

async function append(file: FileHandle, bytes: Buffer, from: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, from + done)).bytesWritten
  }
}

const isNamed = ({ path, inode }: Segment): Promise<boolean> =>
  stat(path).then(
    ({ ino }) => ino === inode,
    () => false,
  )

const full = (folder: string, why: string, cause?: unknown) =>
  new TabibError('PREFLIGHT_FULL', `the preflight ${folder} takes no write: ${why}`, {
    suggestions: ['tabib outbox status --service communication', 'tabib outbox drain'],
    ref: 'runbooks/communication/c05-database-unavailable.md',
    retryable: true,
    cause,
  })

const reasonOf = (cause: unknown): string =>
  cause instanceof TabibError
    ? cause.message
    : ((cause as NodeJS.ErrnoException).code ?? (cause as Error).message)

const storedWrite = z.object({
  id: z.uuid(),
  acceptedAt: z.coerce.date(),
  call: z.object({
    service: z.enum(SERVICES),
    tenantId: z.uuid(),
    route: z.string(),
    key: z.string(),
    fingerprint: z.base64().transform((text) => Buffer.from(text, 'base64')),
  }),
  asked: z.unknown(),
})

/** `TBPF`, length and CRC-32 of the JSON, each 4 bytes big-endian; then the JSON. */
function frameOf({ call, ...rest }: AcceptedWrite): Buffer {
  const json = Buffer.from(
    JSON.stringify({ ...rest, call: { ...call, fingerprint: call.fingerprint.toString('base64') } }),
  )
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt32BE(MAGIC, 0)
  header.writeUInt32BE(json.length, 4)
  header.writeUInt32BE(crc32(json), 8)
  return Buffer.concat([header, json])
}

/** The writes of one segment in order; `torn`: bytes at its end that no process lived to flush, hence none accepted. */
export interface SegmentRead {
  writes: AcceptedWrite[]
  torn: number
  /** Bytes before the last whole record that are none: something else has written to the file. */
  damaged: number
}

export async function readSegment(path: string): Promise<SegmentRead> {
  const bytes = await readFile(path)
  const writes: AcceptedWrite[] = []
  let damaged = 0
  let at = 0
  let skipped = 0
  while (at < bytes.length) {
    const write = recordAt(bytes, at)
    if (write === undefined) {
      skipped += 1
      at += 1
      continue
    }
    damaged += skipped
    skipped = 0
    writes.push(write.value)
    at = write.end
  }
  return { writes, torn: skipped, damaged }
}

function recordAt(bytes: Buffer, at: number): { value: AcceptedWrite; end: number } | undefined {
  if (at + HEADER_BYTES > bytes.length || bytes.readUInt32BE(at) !== MAGIC) return undefined
  const end = at + HEADER_BYTES + bytes.readUInt32BE(at + 4)
  if (end > bytes.length) return undefined
  const json = bytes.subarray(at + HEADER_BYTES, end)
  if (crc32(json) !== bytes.readUInt32BE(at + 8)) return undefined
  const parsed = storedWrite.safeParse(JSON.parse(json.toString()))
  return parsed.success ? { value: parsed.data, end } : undefined
}

/** What waits in a folder, and what was refused; nothing where there is none. Reads only. */
export async function readPreflight(folder: string): Promise<PreflightState> {
  const state: PreflightState = { waiting: 0, bytes: 0, oldestAt: undefined, refused: 0, damaged: 0 }
  for (const { name, size } of await filesIn(folder)) {
    state.bytes += size
    if (name.endsWith(DAMAGED)) state.damaged += 1
    if (![OPEN, SEALED, REFUSED].some((kind) => name.endsWith(kind))) continue
    const read = await readSegment(join(folder, name)).catch(gone)
    if (read === undefined) continue
    if (name.endsWith(REFUSED)) state.refused += read.writes.length
    else {
      state.waiting += read.writes.length
      state.oldestAt ??= read.writes[0]?.acceptedAt
      if (read.damaged > 0) state.damaged += 1
    }
  }
  return state
}

/** What became of a folder's writes. */
export interface Drained {
  drained: number
  /** Whose subject was erased meanwhile: neither made nor kept. */
  erased: number
  refused: { id: string; why: string }[]
  /** Why it stopped before the end: Postgres takes no writes still. */
  stopped: string | undefined
}

/**
 * Has every write of a folder made, in order, by `make`, which makes one once however often it is called. Any process
 * may, at any time, several at once: a write that is made a second time changes nothing. A segment goes when all of it
 * is made; what is refused for good is kept aside with its reason, and tried once more with `again`.
 */
export async function drainPreflight(
  folder: string,
  {
    make,
    again = false,
    signal,
  }: { make(write: AcceptedWrite): Promise<void>; again?: boolean; signal?: AbortSignal | undefined },
): Promise<Drained> {
  const result: Drained = { drained: 0, erased: 0, refused: [], stopped: undefined }
  for (const { name, size, changedMs } of await segmentsIn(folder, again ? [REFUSED] : [])) {
    if (size === 0 && Date.now() - changedMs < ABANDONED_MS) continue
    const path = await seal(folder, name)
    const read = path && (await readSegment(path).catch(gone))
    if (!path || !read) continue
    const refused: AcceptedWrite[] = []
    for (const write of read.writes) {
      if (signal?.aborted) return { ...result, stopped: 'it was told to stop' }
      try {
        await madeBySomebody(() => make(write))
        result.drained += 1
      } catch (error) {
        if (mayPass(error)) return { ...result, stopped: (error as Error).message }
        if (error instanceof TabibError && error.code === 'SUBJECT_ERASED') {
          result.erased += 1
          continue
        }
        refused.push(write)
        result.refused.push({ id: write.id, why: (error as Error).message })
      }
    }
    await settle(path, { refused, damaged: read.damaged > 0 })
  }
  return result
}

/** Waits for another drainer that is at the same write. */
async function madeBySomebody(make: () => Promise<void>): Promise<void> {
  for (let polls = 1; ; polls += 1) {
    try {
      return await make()
    } catch (error) {
      const underWay = error instanceof TabibError && error.code === 'REQUEST_IN_PROGRESS'
      if (!underWay || polls === UNDER_WAY_POLLS) throw error
      await delay(LONGEST_PAUSE_MS)
    }
  }
}

/** Whether the same write may be made later. Whatever is no refusal of ours or of Postgres is a fault of the wire. */
const mayPass = (error: unknown): boolean =>
  error instanceof TabibError
    ? error.retryable || ['NOT_REPLICATED', 'NOT_AUTHORISED', 'MIGRATION_REQUIRED'].includes(error.code)
    : !/^(22|23|42501)/.test((error as { code?: string }).code ?? '')

async function seal(folder: string, name: string): Promise<string | undefined> {
  if (!name.endsWith(OPEN)) return join(folder, name)
  const sealed = join(folder, name.replace(OPEN, SEALED))
  try {
    await rename(join(folder, name), sealed)
    return sealed
  } catch (error) {
    return gone(error)
  }
}

/** Takes a segment away, and leaves what must stay; dies it between, the same again ends the same. */
async function settle(
  path: string,
  { refused, damaged }: { refused: AcceptedWrite[]; damaged: boolean },
): Promise<void> {
  const folder = join(path, '..')
  const base = path.replace(/\.\w+$/, '')
  if (refused.length > 0) {
    const draft = `${base}.draft`
    {
      await using file = await open(draft, 'w', 0o600)
      await file.writeFile(Buffer.concat(refused.map(frameOf)))
      await file.datasync()
    }
    await rename(draft, `${base}${REFUSED}`)
    if (path.endsWith(REFUSED)) return
  }
  if (damaged) await rename(path, `${base}${DAMAGED}`).catch(gone)
  else await rm(path, { force: true })
  await syncFolder(folder)
}

/** In the order in which they were begun. */
async function segmentsIn(folder: string, more: string[] = []): Promise<StoredFile[]> {
  const kinds = [OPEN, SEALED, ...more]
  return (await filesIn(folder)).filter(({ name }) => kinds.some((kind) => name.endsWith(kind)))
}

interface StoredFile {
  name: string
  size: number
  changedMs: number
}

async function filesIn(folder: string): Promise<StoredFile[]> {
  try {
    const names = await readdir(folder).catch((error) => gone(error) ?? [])
    const files = await Promise.all(
      names.sort().map(async (name): Promise<StoredFile[]> => {
        const found = await stat(join(folder, name)).catch(gone)
        return found ? [{ name, size: found.size, changedMs: found.mtimeMs }] : []
      }),
    )
    return files.flat()
  } catch (cause) {
    throw new TabibError('USAGE', `outbox.preflight: ${folder}: ${reasonOf(cause)}`, { cause })
  }
}

const bytesIn = async (folder: string): Promise<number> =>
  (await filesIn(folder)).reduce((sum, { size }) => sum + size, 0)

async function syncFolder(folder: string): Promise<void> {
  await using own = await open(folder, 'r')
  await own.sync()
}

/** Another process has taken it away: no error. */
function gone(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
  throw error
}
