import { open } from 'node:fs/promises'
import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { raiseIncident } from '../incident/raise.ts'
import { asTenant } from '../sessions/tenant.ts'
import { recordFinding } from './finding.ts'
import { groupedBy, type KnownPatient, knownPatients, openPatientDataFinder } from './patient-data.ts'

/** What is read of a file at once; a longer line is read in parts. */
const MOST_BYTES = 4 << 20

export interface LogScan {
  lines: number
  leaking: number
  /** There is more to read. */
  more: boolean
}

interface LeakingLine {
  /** Byte of the file at which the line begins. */
  at: number
  kinds: string[]
  says: Said
}

/** Ids of a line of JSON. */
interface Said {
  tenantId: string | undefined
  patientId: string | undefined
  category: string | undefined
  channel: string | undefined
  template: string | undefined
  version: number | undefined
}

/**
 * Reads what was added to a log file since it was read last, up to 4 MiB, and puts on record each line that holds patient
 * data: the category that it names is halted for the tenant that it names; of a line that names none there is an incident
 * alone. A file that was rotated is read from its beginning.
 *
 * @throws TabibError NOT_FOUND when the file is not there.
 */
export async function scanLog({ db }: { db: Database }, path: string): Promise<LogScan> {
  const [mark] = await db.query<{ inode: string; readTo: string }>(
    'select inode, read_to as "readTo" from communication.log_mark where path = $1',
    [path],
  )
  const { from, bytes, inode, size } = await readOn(path, mark)
  const end =
    bytes.length < MOST_BYTES
      ? bytes.lastIndexOf(NEWLINE) + 1
      : bytes.lastIndexOf(NEWLINE) + 1 || bytes.length
  const lines = linesOf(bytes.subarray(0, end), from)
  const leaking = await leakingLines(db, lines)
  await db.transaction(async (tx) => {
    for (const line of leaking) await recordLine(tx, path, inode, line)
    await tx.query(
      `insert into communication.log_mark (path, inode, read_to) values ($1, $2, $3)
       on conflict (path) do update set inode = excluded.inode, read_to = excluded.read_to, read_at = clock_timestamp()`,
      [path, inode, from + end],
    )
  })
  return { lines: lines.length, leaking: leaking.length, more: end > 0 && from + end < size }
}

async function readOn(path: string, mark: { inode: string; readTo: string } | undefined) {
  const file = await open(path).catch((cause: NodeJS.ErrnoException) => {
    throw new TabibError('NOT_FOUND', `the log ${path} cannot be read: ${cause.code}`, { cause })
  })
  try {
    const { ino, size } = await file.stat()
    const isSame = mark !== undefined && Number(mark.inode) === ino && Number(mark.readTo) <= size
    const from = isSame ? Number(mark.readTo) : 0
    const buffer = Buffer.alloc(Math.min(MOST_BYTES, size - from))
    const { bytesRead } = await file.read(buffer, 0, buffer.length, from)
    return { from, bytes: buffer.subarray(0, bytesRead), inode: ino, size }
  } finally {
    await file.close()
  }
}

const NEWLINE = 10

function linesOf(bytes: Buffer, from: number): { at: number; text: string; says: Said }[] {
  const lines = []
  for (let at = 0; at < bytes.length; ) {
    const next = bytes.indexOf(NEWLINE, at)
    const end = next < 0 ? bytes.length : next
    const text = bytes.toString('utf8', at, end)
    if (text.trim() !== '') lines.push({ at: from + at, text, says: idsIn(text) })
    at = end + 1
  }
  return lines
}

/** Lines with what looks like anybody's data, or with that of the patient whose id they name. */
async function leakingLines(db: Database, lines: ReturnType<typeof linesOf>): Promise<LeakingLine[]> {
  const leaking: LeakingLine[] = []
  for (const [tenantId, own] of groupedBy(lines, ({ says }) => says.tenantId)) {
    let patients: KnownPatient[] = []
    if (tenantId !== undefined) {
      const ids = [...new Set(own.flatMap(({ says }) => says.patientId ?? []))]
      patients = await asTenant(db, tenantId, (tx: Queryable) => knownPatients(tx, ids))
    }
    const { kindsIn } = openPatientDataFinder(patients)
    for (const { at, text, says } of own) {
      const kinds = kindsIn(text)
      if (kinds.length > 0) leaking.push({ at, kinds, says })
    }
  }
  return leaking.sort((one, other) => one.at - other.at)
}

async function recordLine(
  tx: Transaction,
  path: string,
  inode: number,
  { at, kinds, says }: LeakingLine,
): Promise<void> {
  const { tenantId, channel, template, version } = says
  const [known] = await tx.query<{ tenant: boolean; category: string | null }>(
    `select exists (select from tabib.tenant where id = $1) as tenant,
       (select category from communication.template where id = $2 order by version desc limit 1) as category`,
    [tenantId ?? null, template ?? null],
  )
  const category = says.category ?? known!.category
  if (tenantId !== undefined && known!.tenant && category !== null && category !== undefined) {
    await recordFinding(tx, {
      ...{ tenantId, source: 'log', place: `${path}:${inode}:${at}`, category, evidence: { line: kinds } },
      channel: channel ?? null,
      template: template !== undefined && version !== undefined ? { id: template, version } : null,
    })
    return
  }
  await raiseIncident(tx, {
    dedupeKey: `communication/C11:log:${path}`,
    severity: 'page',
    mode: 'communication/C11',
    service: 'communication',
    title: `Patient data in the log ${path}`,
    detail: {
      path,
      byte: at,
      found: kinds,
      ...(tenantId !== undefined && known!.tenant ? { tenantId } : {}),
    },
    runbook: 'runbooks/communication/c11-patient-data-in-push.md',
  })
}

function idsIn(text: string): Said {
  let line: Record<string, unknown> = {}
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed === 'object' && parsed !== null) line = parsed as Record<string, unknown>
  } catch {
    // No JSON: it names nothing that we know of.
  }
  const word = (...names: string[]) =>
    names.map((name) => line[name]).find((one) => typeof one === 'string') as string
  const id = (...names: string[]) => {
    const value = word(...names)
    return UUID.test(value ?? '') ? value : undefined
  }
  const short = (value: string | undefined) => (/^[a-z][a-z-]{0,60}$/.test(value ?? '') ? value : undefined)
  const version = line.version ?? line.templateVersion
  return {
    tenantId: id('tenantId', 'tenant_id', 'tenant'),
    patientId: id('patientId', 'patient_id'),
    category: short(word('category')),
    channel: short(word('channel')),
    template: short(word('template')),
    version: Number.isInteger(version) ? (version as number) : undefined,
  }
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
