import { type Database, isDatabaseAway, type Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { gatherIdentifiers } from './identifiers.ts'
import { type Subject, total } from './participant.ts'
import { PARTICIPANTS } from './participants.ts'
import { asErasure, type ParticipantSystems, performStep, pseudonymsOf } from './perform.ts'
import { advanceMark, type Fact, factBatches, listHead, readMark, unknownFacts } from './remember.ts'
import { heldParticipants, openRequest } from './request.ts'
import { subjectColumns } from './returned.ts'
import { residue } from './saga.ts'

/** What re-applying the list to a database would do. Subjects are counted, never named. */
export interface ReapplyPlan {
  database: string
  /** Where the list ends, and up to where the database has all that it says. */
  list: { head: number; applied: number }
  /** Entries that a restore took away. */
  missing: Record<Fact['kind'], number>
  /** Subjects of the list who are in the database, and of these whom a legal hold keeps, in part or whole. */
  returned: number
  held: number
  /** What would be erased, by participant. */
  rows: Record<string, number>
  /** Steps of erasures that were under way when the backup was made. */
  open: number
  /** A run before this one did not end. */
  interrupted: boolean
}

/** A subject of the list who is in the database. */
interface Returned extends Subject {
  /** What would be erased, by participant. */
  rows: Record<string, number>
  held: boolean
}

/**
 * Reads the whole list, and looks for everybody in it: by the ids that are in the database, since the list has hashes.
 * @throws TabibError NATS_UNREACHABLE, MIGRATION_REQUIRED.
 */
export async function planReapply(systems: ParticipantSystems): Promise<ReapplyPlan> {
  const { db } = systems
  const [{ database }] = (await db.query('select current_database() as database')) as [{ database: string }]
  const { missing, returned, head } = await compare(systems)
  const { seq: applied, reapplying: interrupted } = await readMark(db)
  const rows: Record<string, number> = {}
  for (const subject of returned) {
    for (const [id, n] of Object.entries(subject.rows)) if (n > 0) rows[id] = (rows[id] ?? 0) + n
  }
  return {
    database,
    list: { head, applied },
    missing: countFacts(missing),
    returned: returned.length,
    held: returned.filter(({ held }) => held).length,
    rows,
    open: (await dueSteps(db)).length,
    interrupted,
  }
}

export interface Reapplied {
  /** Entries of the list that were put back. */
  missing: Record<Fact['kind'], number>
  /** Subjects who were erased again, and the rows that this took. */
  erased: number
  rows: number
  /** Subjects whom a legal hold keeps. */
  held: number
  /** Steps that could not be done, by the code of the error: a store did not answer. */
  failed: Record<string, number>
  /** Subjects of the list of whom something is left that no hold keeps. */
  left: number
}

/**
 * Puts back what a restore took away and erases again who is in the database, by the very steps of an erasure. Then the
 * mark moves, and the database may take traffic. Killed anywhere and called again it comes to the same.
 */
export async function applyReapply(
  systems: ParticipantSystems,
  {
    instance,
    signal,
    onProgress,
  }: { instance: string; signal: AbortSignal; onProgress?(done: number, of: number): void },
): Promise<Reapplied> {
  const { missing, latest } = await compare(systems)
  // What is put back is known from then on, and is not erased yet.
  await systems.db.query('update tabib.erasure_mark set reapplying = true where not reapplying')
  for (const fact of missing) await putBack(systems.db, fact)
  // Looked at again: a hold that was put back counts.
  const { returned } = await compare(systems)
  for (const subject of returned) {
    signal.throwIfAborted()
    await reopen(systems, subject, latest.get(keyOf(subject))!)
  }
  const due = await dueSteps(systems.db)
  const failed: Record<string, number> = {}
  const stuck = new Set<string>()
  let rows = 0
  for (const [n, step] of due.entries()) {
    signal.throwIfAborted()
    // What follows a step waits for it.
    if (stuck.has(step.requestId)) continue
    try {
      const outcome = await performStep(systems, participantOf(step), { ...step, instance })
      if (outcome.kind === 'done') rows += outcome.rows
    } catch (error) {
      if (!(error instanceof TabibError) || isDatabaseAway(error)) throw error
      failed[error.code] = (failed[error.code] ?? 0) + 1
      stuck.add(step.requestId)
    }
    onProgress?.(n + 1, due.length)
  }
  const after = await compare(systems)
  const left = after.returned.filter(({ rows }) => sum(rows) > 0).length
  if (left === 0 && after.missing.length === 0 && stuck.size === 0) {
    await advanceMark(systems)
    await systems.db.query('update tabib.erasure_mark set reapplying = false where reapplying')
  }
  return {
    missing: countFacts(missing),
    erased: returned.filter((subject) => sum(subject.rows) > 0).length,
    rows,
    held: returned.filter(({ held }) => held).length,
    failed,
    left,
  }
}

type RequestFact = Extract<Fact, { kind: 'request' }>

const keyOf = ({ tenantId, hash }: Pick<Subject, 'tenantId' | 'hash'>) =>
  `${tenantId}/${hash.toString('hex')}`

async function compare(systems: ParticipantSystems): Promise<{
  head: number
  missing: Fact[]
  /** By tenant and hash: the last request of each subject of the list. */
  latest: Map<string, RequestFact>
  returned: Returned[]
}> {
  const { lastSeq: head } = await listHead(systems.nats)
  const latest = new Map<string, RequestFact>()
  const missing: Fact[] = []
  // From its beginning: one table may have been restored by itself, and no mark tells of that.
  for await (const { facts } of factBatches(systems)) {
    for (const fact of facts)
      if (fact.kind === 'request') latest.set(`${fact.tenantId}/${fact.subjectHash}`, fact)
    missing.push(...(await unknownFacts(systems.db, facts)))
  }
  const returned: Returned[] = []
  const secret = latest.size > 0 ? await systems.erasureSecret() : undefined
  const tenants = new Set([...latest.values()].map(({ tenantId }) => tenantId))
  for (const tenantId of tenants) {
    for (const subjectId of await subjectIds(systems.db, tenantId)) {
      const hash = secret!.subjectHash(tenantId, subjectId)
      if (!latest.has(keyOf({ tenantId, hash }))) continue
      const found = await look(systems, {
        tenantId,
        hash,
        subjectId,
        ...pseudonymsOf(secret!, hash),
      })
      if (sum(found.rows) > 0 || found.held) returned.push(found)
    }
  }
  return { head, missing, latest, returned }
}

/** What there is of a subject, less what holds keep. */
async function look(
  systems: ParticipantSystems,
  { subjectId, ...of }: Omit<Subject, 'identifiers'> & { subjectId: string },
): Promise<Returned> {
  const { identifiers, holds } = await asErasure(systems.db, of.tenantId, async (tx) => ({
    identifiers: await gatherIdentifiers(tx, subjectId),
    holds: await heldParticipants(tx, of.hash),
  }))
  const subject = { ...of, identifiers }
  const rows: Record<string, number> = {}
  let held = false
  for (const participant of PARTICIPANTS) {
    const found = total(await residue(systems, participant, subject))
    if (holds.includes(participant.id)) held ||= found > 0
    else rows[participant.id] = found
  }
  return { ...subject, rows, held }
}

/** Every id of a patient in the tables that participants erase in. */
async function subjectIds(db: Database, tenantId: string): Promise<string[]> {
  return asErasure(db, tenantId, async (tx) => {
    const columns = await subjectColumns(tx)
    if (columns.length === 0) return []
    const all = columns.map(
      ({ table, column }) => `select ${column} as id from ${table} where tenant_id = $1`,
    )
    const rows = await tx.query<{ id: string }>(
      `select distinct id::text as id from (${all.join(' union all ')}) every where id is not null`,
      [tenantId],
    )
    return rows.map(({ id }) => id)
  })
}

/** Writes an entry of the list into the database that lacks it. */
async function putBack(db: Database, fact: Fact): Promise<void> {
  const { ref, tenantId, subjectHash } = fact
  if (fact.kind === 'release') {
    await db.query(
      `update tabib.erasure_hold set released_by = $2, released_at = $3 where id = $1 and released_at is null`,
      [ref, fact.by, fact.at],
    )
  } else if (fact.kind === 'hold') {
    await db.query(
      `insert into tabib.erasure_hold (id, tenant_id, subject_hash, participants, authority, placed_by, placed_at)
       values ($1, $2, decode($3, 'hex'), $4, $5, $6, $7) on conflict do nothing`,
      [ref, tenantId, subjectHash, fact.participants, fact.authority, fact.by, fact.at],
    )
  } else {
    // As history: what it did is not in this database. Whoever came back is erased by a request that follows it.
    await db.transaction(async (tx) => {
      await tx.query(
        `insert into tabib.erasure_request (id, tenant_id, subject_hash, requested_at, deadline_at, authority, order_jti,
           order_digest, state, watch_until, completed_at)
         values ($1, $2, decode($3, 'hex'), $4, $5, $6, $7, decode($8, 'hex'), 'complete', clock_timestamp(),
           clock_timestamp())
         on conflict do nothing`,
        [
          ref,
          tenantId,
          subjectHash,
          fact.requestedAt,
          fact.deadlineAt,
          fact.authority,
          fact.orderJti,
          fact.orderDigest,
        ],
      )
      await tx.query(
        `insert into tabib.erasure_subject (tenant_id, subject_hash, request_id) values ($1, decode($2, 'hex'), $3)
         on conflict do nothing`,
        [tenantId, subjectHash, ref],
      )
      await tx.query(
        `insert into tabib.erasure_fingerprint (tenant_id, subject_hash, kind, fingerprint)
         select $1, decode($2, 'hex'), kind, decode(fingerprint, 'base64')
         from unnest($3::text[], $4::text[]) as f (kind, fingerprint) on conflict do nothing`,
        [
          tenantId,
          subjectHash,
          fact.fingerprints.map(({ kind }) => kind),
          fact.fingerprints.map((f) => f.fingerprint),
        ],
      )
    })
  }
}

/** Opens a request for a subject who came back, unless one is under way. */
async function reopen(systems: ParticipantSystems, subject: Returned, fact: RequestFact): Promise<void> {
  // The same order may have been handed in again since.
  const [first] = await systems.db.query<{ id: string }>(
    'select id from tabib.erasure_request where id = $1 or order_jti = $2 order by id <> $1 limit 1',
    [fact.ref, fact.orderJti],
  )
  try {
    await openRequest(
      { db: systems.db, secret: await systems.erasureSecret() },
      {
        tenantId: subject.tenantId,
        subjectId: subject.identifiers.subjectId,
        authority: fact.authority,
        order: { jti: null, digest: fact.orderDigest },
        follows: first!.id,
      },
    )
  } catch (error) {
    if (!(error instanceof TabibError && error.code === 'NOT_NEEDED')) throw error
  }
}

interface DueStep {
  requestId: string
  tenantId: string
  participant: string
  round: number
}

/** Every step that is not acknowledged and that no hold keeps, request by request in its order. */
function dueSteps(db: Queryable): Promise<DueStep[]> {
  return db.query<DueStep>(
    `select s.request_id as "requestId", s.tenant_id as "tenantId", s.participant, s.round
     from tabib.erasure_step s join tabib.erasure_request r on r.id = s.request_id
     where r.state <> 'complete' and s.state <> 'done'
       and not exists (select from tabib.erasure_ack a
         where (a.request_id, a.participant, a.round) = (s.request_id, s.participant, s.round))
       and not exists (select from tabib.erasure_hold h
         where (h.tenant_id, h.subject_hash) = (r.tenant_id, r.subject_hash) and h.released_at is null
           and (h.participants is null or s.participant = any(h.participants)))
     order by r.requested_at, s.request_id, s.stage, s.participant`,
  )
}

const participantOf = ({ participant }: DueStep) => {
  const found = PARTICIPANTS.find(({ id }) => id === participant)
  if (found) return found
  throw new TabibError('MIGRATION_REQUIRED', `this version knows no participant "${participant}"`, {
    suggestions: ['tabib --version', 'tabib migrate status'],
  })
}

const sum = (rows: Record<string, number>): number => Object.values(rows).reduce((all, n) => all + n, 0)

const countFacts = (facts: readonly Fact[]): Record<Fact['kind'], number> => {
  const counts = { request: 0, hold: 0, release: 0 }
  for (const { kind } of facts) counts[kind] += 1
  return counts
}
