import { createHash, randomUUID } from 'node:crypto'
import { link, mkdir, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { compactVerify, decodeProtectedHeader } from 'jose'
import * as z from 'zod'
import { type Files, openFiles } from '../../adapters/files/client.ts'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { judgeApproval, useApproval } from '../approval/accept.ts'
import type { ApprovalClaims } from '../approval/create.ts'
import { findOperator, type OperatorKey, type Registry, removalOf } from '../approval/operator.ts'
import { signAsOperator } from '../approval/prove.ts'
import { type AuditEntry, appendLocked, lockAudit } from '../audit/append.ts'
import { breakGlass } from './glass.ts'

/** Keeps a record from passing for another kind of token (RFC 8725 section 3.11). */
const RECORD_TYPE = 'tabib-broken-glass+jws'
const FIRST = '0'.repeat(64)
const NAME = /^\d{6}\.jws$/
/** Of several who write at once all but one find their number taken, and take the next. */
const TRIES = 20

const claimsSchema = z.object({
  /** SHA-256 of the record before, in hex. */
  prev: z.string(),
  iss: z.string(),
  iat: z.number(),
  runId: z.uuid(),
  context: z.string(),
  target: z.string(),
  planHash: z.string(),
  reason: z.string(),
  /** The other operator's consent, a JWS as well. */
  approval: z.string(),
  against: z.array(z.object({ object: z.string(), message: z.string() })),
  tenantCount: z.number().optional(),
  argsRedacted: z.array(z.string()),
  version: z.string(),
})
type Claims = z.output<typeof claimsSchema>

/** What is to be recorded; who acts and when is added by their signature. */
export type BrokenGlass = Omit<Claims, 'prev' | 'iss' | 'iat'> & { actor: string }

/** One record, once both signatures hold. */
export interface JournalRecord extends Claims {
  name: string
  jws: string
  hash: string
  consent: ApprovalClaims
}

export interface Journal {
  /** In the order in which they were written. */
  records: JournalRecord[]
  /** What is not believed, and why. */
  broken: { name: string; why: string }[]
}

/**
 * Records that two people broke the glass, with no server: a JWS (RFC 7515) by the key of who acts, over the plan, the
 * other's consent and the hash of the record before. It is on the disk for good when this returns.
 * @throws TabibError APPROVAL_INVALID, also for one that the journal has used; OPERATOR_UNPROVED; USAGE when the folder
 * cannot be written to.
 */
export async function recordBrokenGlass(
  systems: { operators: readonly OperatorKey[]; keyStore(): Promise<KeyStore> },
  folder: string,
  { actor, ...said }: BrokenGlass,
): Promise<JournalRecord> {
  const { operators } = systems
  const consent = await judgeApproval({ operators }, { ...said, actor })
  using files = openFiles()
  await mkdir(folder, { recursive: true }).catch((cause) => {
    throw unusable(folder, cause)
  })
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    const texts = await readRecords(files, folder)
    if (texts.some(({ text }) => approvalIdOf(text) === consent.jti)) {
      throw new TabibError('APPROVAL_INVALID', 'the approval is refused: the journal has used it before')
    }
    const last = texts.at(-1)
    const prev = last === undefined ? FIRST : hashOf(last.text)
    const jws = await signAsOperator(systems, {
      operator: actor,
      typ: RECORD_TYPE,
      claims: (iat) => ({ ...said, prev, iat }),
    })
    const name = `${String(Number(last?.name.slice(0, 6) ?? 0) + 1).padStart(6, '0')}.jws`
    if (await writeNew(folder, name, `${jws}\n`)) {
      return { ...claimsOf(jws), name, jws, hash: hashOf(`${jws}\n`), consent }
    }
  }
  throw new TabibError('LOCKED', `others write to ${folder} all the time`, { retryable: true })
}

/** Every record, each held against the one before it and both signatures against the registry. Reads only. */
export async function readJournal(registry: Registry, folder: string): Promise<Journal> {
  const journal: Journal = { records: [], broken: [] }
  using files = openFiles()
  let prev = FIRST
  for (const { name, text } of await readRecords(files, folder)) {
    const hash = hashOf(text)
    try {
      journal.records.push({ name, hash, ...(await verifyRecord(registry, text, prev)) })
    } catch (error) {
      if (!(error instanceof TabibError && error.code === 'APPROVAL_INVALID')) throw error
      journal.broken.push({ name, why: error.message })
    }
    prev = hash
  }
  return journal
}

/** The runs of those of these records that the audit trail has. */
export async function takenRecords(
  { db }: { db: Queryable },
  records: readonly JournalRecord[],
): Promise<Set<string>> {
  const rows = await db.query<{ runId: string }>(
    `select run_id as "runId" from tabib.audit where run_id = any($1::uuid[]) and record ? 'journal'`,
    [records.map(({ runId }) => runId)],
  )
  return new Set(rows.map(({ runId }) => runId))
}

/**
 * Takes one record into the audit trail, marks its approval as used and tells ops and compliance, all in one transaction;
 * the same again changes nothing.
 */
export async function takeRecord(
  { db }: { db: Database },
  record: JournalRecord,
): Promise<{ taken: boolean }> {
  return db.transaction(async (tx) => {
    await lockAudit(tx)
    if ((await takenRecords({ db: tx }, [record])).has(record.runId)) return { taken: false }
    const { runId, iss: actor, consent, target, planHash, reason, against, context } = record
    const incident = await breakGlass({ db: tx }, { target, actor, reason, reasons: against })
    const entry: Omit<AuditEntry, 'phase'> = {
      runId,
      actor,
      actorProof: record.jws,
      approver: consent.iss,
      context,
      command: 'residency gate',
      argsRedacted: record.argsRedacted,
      planHash,
      reason,
      incident: incident.id,
      failureMode: 'billing/FM-22',
      targets: [`cluster:${target}`],
      tenantCount: record.tenantCount,
      journal: { record: record.hash, at: new Date(record.iat * 1_000).toISOString() },
      version: record.version,
    }
    await appendLocked(tx, { ...entry, phase: 'before' })
    await appendLocked(tx, { ...entry, phase: 'after', outcome: 'ok', exitCode: 0 })
    await useApproval({ db: tx }, consent, { runId, actor })
    return { taken: true }
  })
}

/** @throws TabibError APPROVAL_INVALID, saying what does not hold. */
async function verifyRecord(
  registry: Registry,
  text: string,
  prev: string,
): Promise<Claims & Pick<JournalRecord, 'jws' | 'consent'>> {
  const jws = text.trim()
  const untrue = (why: string, cause?: unknown) => new TabibError('APPROVAL_INVALID', why, { cause })
  let kid = ''
  try {
    kid = decodeProtectedHeader(jws).kid ?? ''
  } catch (cause) {
    throw untrue('it is no JWS', cause)
  }
  const signer = await findOperator(registry, { kid })
  if (signer === undefined) throw untrue('no registered operator has the key that signed it')
  const verified = await compactVerify(jws, signer.publicKey).catch((cause) => {
    throw untrue('its signature does not hold', cause)
  })
  if (verified.protectedHeader.typ !== RECORD_TYPE) throw untrue(`it is a "${verified.protectedHeader.typ}"`)
  const claims = claimsOf(jws)
  if (claims.iss !== signer.name) throw untrue(`it names ${claims.iss}, and ${signer.name} signed it`)
  if (claims.prev !== prev) throw untrue('it does not follow from the record before it')
  const removal = removalOf(signer, claims.iat)
  if (removal !== undefined) throw untrue(removal)
  const consent = await judgeApproval(registry, { ...claims, actor: claims.iss }, claims.iat)
  return { ...claims, jws, consent }
}

function claimsOf(jws: string): Claims {
  try {
    return claimsSchema.parse(JSON.parse(Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString()))
  } catch (cause) {
    throw new TabibError('APPROVAL_INVALID', 'its claims are not those of a record', { cause })
  }
}

/** The consent that a record used, whether or not the record is to be believed. */
function approvalIdOf(text: string): string | undefined {
  try {
    const { approval } = claimsOf(text)
    return JSON.parse(Buffer.from(approval.split('.')[1] ?? '', 'base64url').toString()).jti
  } catch {
    return undefined
  }
}

/** The texts of all records in order; none where there is no folder. */
async function readRecords(files: Files, folder: string): Promise<{ name: string; text: string }[]> {
  try {
    const names = (await files.list(folder)).filter((name) => NAME.test(name)).sort()
    return await Promise.all(
      names.map(async (name) => ({ name, text: await files.read(join(folder, name)) })),
    )
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw unusable(folder, cause)
  }
}

/** Makes a file that is there whole and for good, or not at all; false when the name was taken meanwhile. */
async function writeNew(folder: string, name: string, text: string): Promise<boolean> {
  const draft = join(folder, `${randomUUID()}.draft`)
  try {
    {
      await using file = await open(draft, 'wx', 0o600)
      await file.writeFile(text)
      await file.sync()
    }
    await link(draft, join(folder, name))
    await using own = await open(folder, 'r')
    await own.sync()
    return true
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw unusable(folder, cause)
  } finally {
    await rm(draft, { force: true })
  }
}

const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex')

const unusable = (folder: string, cause: unknown) =>
  new TabibError('USAGE', `residency.journal: ${folder}: ${(cause as NodeJS.ErrnoException).code}`, { cause })
