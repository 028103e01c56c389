import { createHash } from 'node:crypto'
import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { canonicalJson } from './canonical-json.ts'

/** What one record of the trail says beyond its place in the chain (docs/cli.md, rule 9). */
export interface AuditEntry {
  runId: string
  actor: string
  /** A JWS by the key that is registered for the actor; without it the actor is whoever they say. */
  actorProof?: string | undefined
  approver?: string | undefined
  /** The approver's JWS: what was done can be held against it again. */
  approval?: string | undefined
  context: string
  command: string
  argsRedacted: string[]
  planHash?: string | undefined
  reason?: string | undefined
  incident?: string | undefined
  failureMode?: string | undefined
  targets: string[]
  tenantCount?: number | undefined
  phase: 'before' | 'after'
  /** Absent before the work. */
  outcome?: 'ok' | 'failed' | undefined
  exitCode?: number | undefined
  errorCode?: string | undefined
  durationMs?: number | undefined
  /** Of what was done while no database took writes: SHA-256 of its record (hex), and when that was. */
  journal?: { record: string; at: string } | undefined
  version: string
}

export interface AuditRow {
  seq: bigint
  ts: Date
  run_id: string
  prev_hash: Buffer
  hash: Buffer
  record: Record<string, unknown>
}

/** The hash before the first record: 32 zero bytes. */
export const GENESIS = Buffer.alloc(32)

/** SHA-256 of the hash before and the record's canonical JSON; the record holds its own seq, ts and runId. */
export function chainHash(prevHash: Buffer, record: Record<string, unknown>): Buffer {
  return createHash('sha256').update(prevHash).update(canonicalJson(record)).digest()
}

/** Appends one record to the chain in a transaction of its own; appends of all hosts are serialised. */
export function appendAudit(db: Database, entry: AuditEntry): Promise<{ seq: bigint }> {
  return db.transaction(async (tx) => {
    await lockAudit(tx)
    return appendLocked(tx, entry)
  })
}

/** Nobody else appends until the transaction ends. */
export async function lockAudit(tx: Transaction): Promise<void> {
  await tx.query(`select pg_advisory_xact_lock(hashtextextended('tabib.audit', 0))`)
}

/** Appends one record in the caller's transaction, after `lockAudit`. */
export async function appendLocked(tx: Transaction, entry: AuditEntry): Promise<{ seq: bigint }> {
  const [last] = await tx.query<{ seq: bigint | null; hash: Buffer | null; now: Date }>(
    `select head.seq, head.hash, date_trunc('milliseconds', clock_timestamp()) as now
       from (select) one left join lateral (select seq, hash from tabib.audit order by seq desc limit 1) head on true`,
  )
  const seq = (last?.seq ?? 0n) + 1n
  const prevHash = last?.hash ?? GENESIS
  const ts = last!.now
  const record = JSON.parse(canonicalJson({ seq, ts, ...entry })) as Record<string, unknown>
  await tx.query(
    'insert into tabib.audit (seq, ts, run_id, prev_hash, hash, record) values ($1, $2, $3, $4, $5, $6)',
    [seq, ts, entry.runId, prevHash, chainHash(prevHash, record), canonicalJson(record)],
  )
  return { seq }
}
