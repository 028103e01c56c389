import { once } from 'node:events'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { finished } from 'node:stream/promises'
import { type Database, openDatabase } from '../src/adapters/postgres/client.ts'
import { fingerprintKey, fingerprintsOf } from '../src/domain/erasure/fingerprint.ts'
import { openScanner, type Wanted } from '../src/domain/erasure/scanner.ts'
import { ENCODINGS, WRITINGS } from '../src/domain/erasure/writings.ts'
import { openSandboxFolder } from '../src/sandbox/folder.ts'
import { randomFrom } from '../src/sandbox/random.ts'
import { startPostgres } from '../src/sandbox/servers/postgres.ts'
import { identifiersOf, logLine } from './erasure/log.ts'
import { type Measurement, reaches } from './measurement.ts'

const ROWS = Number(process.env.TABIB_BENCH_ROWS ?? 1_000_000)
const SUBJECTS = 10_000
/** Identifiers that Postgres searches for: it goes through all rows for each. */
const SEARCHED = 4

/**
 * A log of a million rows, searched for the identifiers of 10,000 erased subjects by their fingerprints, against reading
 * the same bytes and against a search for the very text in Postgres. Every writing of `WRITINGS` is planted in every
 * encoding of `ENCODINGS` once.
 */
export async function run(): Promise<Measurement[]> {
  await using folder = await openSandboxFolder()
  const place = await mkdtemp(join(tmpdir(), 'tabib-erasure-'))
  try {
    const log = await writeLog(join(place, 'log'))
    const reading = await read(log.path)
    const scan = await scanLog(log)
    const postgres = await startPostgres({ folder })
    const { ownerUrl } = await postgres.createDatabase()
    const search = await searchInPostgres(ownerUrl, log)
    const mb = log.bytes / 1e6
    const figure = (
      name: string,
      value: number,
      unit: string,
      more: Partial<Measurement> = {},
    ): Measurement => ({
      bench: 'erasure',
      case: name,
      value: Number(value.toPrecision(3)),
      unit,
      against: null,
      ratio: null,
      target: null,
      ok: null,
      ...more,
    })
    const bounded = (name: string, value: number, unit: string, target: string): Measurement =>
      figure(name, value, unit, { target, ok: reaches(value, target) })
    const found = `${log.planted.length} planted in ${WRITINGS.length} writings and ${ENCODINGS.length} encodings, found`
    return [
      figure('rows', log.rows, 'rows'),
      figure('bytes', mb, 'MB'),
      figure('reading, and counting lines', mb / reading, 'MB / CPU-s'),
      figure(`scan for ${SUBJECTS} subjects`, mb / scan.cpuS, 'MB / CPU-s', {
        against: 'prototype: 12 MB / CPU-s',
        ratio: Number((mb / scan.cpuS / 12).toPrecision(3)),
        target: '>= 2',
        ok: reaches(mb / scan.cpuS / 12, '>= 2'),
      }),
      figure('the same, against reading', scan.cpuS / reading, 'times the CPU'),
      figure('SQL substring search, one subject', mb / search.cpuS, 'MB / CPU-s', {
        against: 'scan, the same subjects',
        ratio: Number(((search.cpuS * SUBJECTS) / scan.cpuS).toPrecision(3)),
      }),
      bounded(found, scan.found / log.planted.length, '', '>= 1'),
      figure('of these by SQL substring search', search.found / log.planted.length, ''),
      bounded('false positives', scan.wrong, '', '<= 0'),
      figure('memory after a tenth', scan.rssMb[0]!, 'MB'),
      figure('memory at the most', scan.rssMb[1]!, 'MB', {
        against: 'memory after a tenth',
        ratio: Number((scan.rssMb[1]! / scan.rssMb[0]!).toPrecision(3)),
        target: '<= 1.2',
        ok: reaches(scan.rssMb[1]! / scan.rssMb[0]!, '<= 1.2'),
      }),
      figure('load average', loadavg()[0] ?? 0, ''),
    ]
  } finally {
    await rm(place, { recursive: true })
  }
}

interface Planted {
  subject: string
  kind: string
  /** The identifier as it is on record. */
  value: string
  line: Buffer
}

interface Log {
  path: string
  rows: number
  bytes: number
  planted: Planted[]
  /** Byte of each planted line, in the order of `planted`. */
  offsets: Map<number, Planted>
}

function plantings(): Planted[] {
  const planted: Planted[] = []
  for (const writing of WRITINGS) {
    for (const encoding of ENCODINGS) {
      // The next subject each time, and of it the next identifier that can be written so.
      const subject = planted.length
      const identifiers = identifiersOf(subject)
      for (let n = 0; n < identifiers.length; n++) {
        const { kind, value } = identifiers[(subject + n) % identifiers.length]!
        const written = writing.write({ kind, value })
        if (written === undefined) continue
        const line = Buffer.concat([
          Buffer.from('{"ts":"2026-11-24T15:41:03.123Z","level":"warn","detail":"'),
          Buffer.from(encoding.encode(written) as string),
          Buffer.from('","status":502}\n'),
        ])
        planted.push({ subject: String(subject), kind, value, line })
        break
      }
    }
  }
  return planted
}

/** A log of other people, with the planted lines at even distances. */
async function writeLog(path: string): Promise<Log> {
  const chance = randomFrom(20261130)
  const planted = plantings()
  const log: Log = { path, rows: 0, bytes: 0, planted, offsets: new Map() }
  const out = createWriteStream(path)
  const every = Math.floor(ROWS / (planted.length + 1))
  let batch: Buffer[] = []
  let next = 0
  for (; log.rows < ROWS; log.rows++) {
    let line: Buffer
    if (log.rows % every === every - 1 && next < planted.length) {
      const one = planted[next++]!
      log.offsets.set(log.bytes, one)
      line = one.line
    } else line = Buffer.from(`${logLine(log.rows, chance, { from: 1_000_000, count: 1_000_000 })}\n`)
    log.bytes += line.length
    batch.push(line)
    if (batch.length < 1_000) continue
    if (!out.write(Buffer.concat(batch))) await once(out, 'drain')
    batch = []
  }
  out.end(Buffer.concat(batch))
  await finished(out)
  return log
}

/** CPU seconds to read the file and count its lines. */
async function read(path: string): Promise<number> {
  const before = process.cpuUsage()
  let lines = 0
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK })) {
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) lines++
  }
  if (lines < ROWS) throw new Error(`${lines} lines were read of ${ROWS}`)
  return cpuSince(before)
}

async function scanLog(log: Log) {
  const key = fingerprintKey(Buffer.alloc(32, 1), 'herat')
  const wanted: Wanted[] = []
  for (let subject = 0; subject < SUBJECTS; subject++) {
    for (const one of fingerprintsOf(key, identifiersOf(subject)).fingerprints)
      wanted.push({ subject: String(subject), ...one })
  }
  const scanner = openScanner(key, wanted)
  const rssMb: number[] = []
  let read = 0
  async function* chunks() {
    for await (const chunk of createReadStream(log.path, { highWaterMark: CHUNK })) {
      read += chunk.length
      if (read > log.bytes / 10) {
        const now = process.memoryUsage.rss() / 1e6
        rssMb[0] ??= now
        rssMb[1] = Math.max(rssMb[1] ?? 0, now)
      }
      yield chunk
    }
  }
  const before = process.cpuUsage()
  const found = new Set<number>()
  let wrong = 0
  const starts = [...log.offsets.keys()]
  for await (const { subject, kind, offset } of scanner.stream(chunks())) {
    const start = starts.findLast((one) => one <= offset)
    const planted = start === undefined ? undefined : log.offsets.get(start)
    const isIn = planted !== undefined && offset < start! + planted.line.length
    if (isIn && planted.subject === subject && planted.kind === kind) found.add(start!)
    else wrong++
  }
  if (scanner.cutShort > 0) throw new Error(`${scanner.cutShort} places were cut short`)
  return { cpuS: cpuSince(before), found: found.size, wrong, rssMb }
}

/** CPU seconds of Postgres for one identifier, as text that may stand anywhere; and how many of the planted ones it finds. */
async function searchInPostgres(url: string, log: Log): Promise<{ cpuS: number; found: number }> {
  await using db = openDatabase({ url, maxConnections: 1, applicationName: NAME })
  // As bytes would be: not all lines are UTF-8.
  await db.query('create unlogged table log (line text not null)')
  for await (const lines of batches(log.path)) {
    await db.query('insert into log select unnest($1::text[])', [lines])
  }
  await db.query('set max_parallel_workers_per_gather = 0')
  const before = await postgresCpuS(db)
  for (const { value } of log.planted.slice(0, SEARCHED)) {
    await db.query('select count(*) from log where strpos(line, $1) > 0', [value])
  }
  const cpuS = ((await postgresCpuS(db)) - before) / SEARCHED
  const [row] = await db.query<{ n: number }>(
    'select count(*)::int as n from unnest($1::text[], $2::text[]) as t(line, value) where strpos(line, value) > 0',
    [log.planted.map(({ line }) => textOf(line)), log.planted.map(({ value }) => value)],
  )
  return { cpuS, found: row!.n }
}

const textOf = (line: Buffer): string => line.toString('utf8').replaceAll('\0', '')

async function* batches(path: string): AsyncGenerator<string[]> {
  let held = ''
  for await (const chunk of createReadStream(path, { highWaterMark: 4 * CHUNK, encoding: 'utf8' })) {
    const lines = (held + chunk).replaceAll('\0', '').split('\n')
    held = lines.pop()!
    yield lines
  }
  if (held !== '') yield [held]
}

async function postgresCpuS(db: Database): Promise<number> {
  const [row] = await db.query<{ pid: number }>('select pg_backend_pid() as pid')
  const fields = (await readFile(`/proc/${row!.pid}/stat`, 'utf8')).split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

function cpuSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6
}

const NAME = 'erasure bench'
const CHUNK = 1 << 18
