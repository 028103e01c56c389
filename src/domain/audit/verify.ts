import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import { type AuditRow, chainHash, GENESIS } from './append.ts'

/** A place of the chain that was noted outside the database: `<seq>:<hash>`, as `audit verify` prints it. */
export interface Anchor {
  seq: bigint
  hash: Buffer
}

export interface AuditVerification {
  records: number
  /** The chain's end, to be noted outside the database; absent while the trail is empty. */
  head: string | undefined
  findings: Finding[]
}

/** What is looked for; a finding's id is one of these. */
export const AUDIT_RULES = [
  ['deleted', 'no record is missing between two others'],
  ['unchained', 'every record follows from the one before it'],
  ['edited', 'every record gives its own hash'],
  ['rewritten', 'the anchored record is the one that was anchored'],
  ['truncated', 'the trail reaches the anchored record'],
].map(([what, title]) => ({ id: `audit-${what}`, category: 'hash chain', title: title! }))

const PAGE = 1_000
// Past this many the chain is plainly broken, and more lines would only hide the first.
const MAX_FINDINGS = 100

/**
 * Reads the whole trail in order and reports every record that was edited, deleted, inserted or moved. Records cut off
 * the end leave a chain that is whole: only an anchor from outside the database shows that.
 */
export async function verifyAudit(
  { db }: { db: Queryable },
  { anchor }: { anchor?: Anchor | undefined } = {},
): Promise<AuditVerification> {
  const findings: Finding[] = []
  const report = (seq: bigint, what: string, message: string, evidence: Record<string, unknown> = {}) => {
    if (findings.length < MAX_FINDINGS) findings.push(finding(seq, what, message, evidence))
  }
  let seq = 0n
  let prevHash: Buffer = GENESIS
  let records = 0
  let anchorSeen = false
  for (let page = await pageAfter(db, 0n); page.length > 0; page = await pageAfter(db, seq)) {
    for (const row of page) {
      records += 1
      if (row.seq !== seq + 1n) {
        const last = row.seq - 1n
        const missing =
          last === seq + 1n ? `record ${last} is missing` : `records ${seq + 1n} to ${last} are missing`
        report(seq + 1n, 'deleted', missing)
      } else if (!row.prev_hash.equals(prevHash)) {
        report(
          row.seq,
          'unchained',
          `record ${row.seq} does not follow from the one before it: one of them was rewritten`,
          {
            expected: prevHash.toString('hex'),
            seen: row.prev_hash.toString('hex'),
          },
        )
      }
      if (!chainHash(row.prev_hash, row.record).equals(row.hash)) {
        report(row.seq, 'edited', `record ${row.seq} was edited: its content does not give its hash`)
      } else if (!columnsAgree(row)) {
        report(
          row.seq,
          'edited',
          `record ${row.seq} was edited: seq, ts or run_id differ from what was hashed`,
        )
      }
      if (anchor?.seq === row.seq) {
        anchorSeen = true
        if (!anchor.hash.equals(row.hash)) {
          report(row.seq, 'rewritten', `record ${row.seq} is not the one that was anchored`, {
            anchored: anchor.hash.toString('hex'),
            seen: row.hash.toString('hex'),
          })
        }
      }
      seq = row.seq
      prevHash = row.hash
    }
  }
  if (anchor && !anchorSeen) {
    report(anchor.seq, 'truncated', `record ${anchor.seq} was anchored and is gone; the trail ends at ${seq}`)
  }
  return { records, head: records === 0 ? undefined : `${seq}:${prevHash.toString('hex')}`, findings }
}

/** @throws TabibError USAGE */
export function parseAnchor(text: string): Anchor {
  const [, seq, hash] = /^(\d{1,18}):([0-9a-f]{64})$/i.exec(text) ?? []
  if (seq === undefined || hash === undefined) {
    throw new TabibError(
      'USAGE',
      `"${text}" is no anchor; write <seq>:<hash> as "tabib audit verify" prints it`,
    )
  }
  return { seq: BigInt(seq), hash: Buffer.from(hash, 'hex') }
}

function pageAfter(db: Queryable, seq: bigint): Promise<AuditRow[]> {
  return db.query<AuditRow>(
    'select seq, ts, run_id, prev_hash, hash, record from tabib.audit where seq > $1 order by seq limit $2',
    [seq, PAGE],
  )
}

function columnsAgree({ seq, ts, run_id, record }: AuditRow): boolean {
  return record.seq === seq.toString() && record.ts === ts.toISOString() && record.runId === run_id
}

function finding(seq: bigint, what: string, message: string, evidence: Record<string, unknown>): Finding {
  return {
    id: `audit-${what}`,
    check: 'audit verify',
    severity: 'critical',
    object: `audit record ${seq}`,
    message,
    evidence: { seq: seq.toString(), ...evidence },
    fix: null,
    runbook: null,
    cacheKey: `audit:${what}:${seq}`,
    waived: false,
  }
}
