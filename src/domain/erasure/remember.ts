import { CompactSign, compactVerify } from 'jose'
import * as z from 'zod'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { ErasureSecret } from './secret.ts'
import { STEP_STREAM } from './step.ts'

/** Keeps a fact of the list from passing for another kind of token (RFC 8725 section 3.11). */
const FACT_TYPE = 'tabib-erasure+jws'

/**
 * The list of whom to erase and what is held, outside of the database, for good: a restore of the database does not reach
 * it. Subjects stand in it by keyed hash alone.
 */
export const ERASURE_STREAM = {
  name: 'tabib_erasures',
  subjects: ['tabib.erasures.*'],
  deny_delete: true,
  deny_purge: true,
}

const subject = { ref: z.uuid(), tenantId: z.uuid(), subjectHash: z.string().regex(/^[0-9a-f]{64}$/) }
const time = z.iso.datetime()
const factSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('request'),
    ...subject,
    authority: z.string(),
    orderJti: z.uuid(),
    orderDigest: z.string(),
    requestedAt: time,
    deadlineAt: time,
    fingerprints: z.array(z.object({ kind: z.string(), fingerprint: z.base64() })),
  }),
  z.object({
    kind: z.literal('hold'),
    ...subject,
    participants: z.array(z.string()).nullable(),
    authority: z.string(),
    by: z.string(),
    at: time,
  }),
  z.object({ kind: z.literal('release'), ...subject, by: z.string(), at: time }),
])

/** One entry of the list: a request was accepted, a hold was placed or released. */
export type Fact = z.output<typeof factSchema>

export interface ListSystems {
  readonly db: Database
  readonly nats: Nats
  erasureSecret(): Promise<ErasureSecret>
}

const BATCH = 500
/** What is to be said when `tryToRemember` could not. */
export const NOT_REMEMBERED =
  'the list outside of the database lacks it until NATS answers; the erasure-replay worker sees to it'

/**
 * As `rememberErasures`, for whoever has just committed and need not wait for NATS.
 * @returns false when NATS does not answer: the erasure-replay worker makes up for it.
 */
export async function tryToRemember(systems: ListSystems): Promise<boolean> {
  try {
    await rememberErasures(systems)
    return true
  } catch (error) {
    if (error instanceof TabibError && error.code === 'NATS_UNREACHABLE') return false
    throw error
  }
}

/**
 * Puts what the database knows and the list lacks into the list, and moves the mark up to where the database has all that
 * the list says. Twice is once; killed anywhere and called again it comes to the same. Where the list itself was lost it is
 * written again from the database.
 *
 * @returns how many entries were written, and how far the mark is behind: more than 0 after a restore.
 * @throws TabibError NATS_UNREACHABLE, MIGRATION_REQUIRED without the stream.
 */
export async function rememberErasures(systems: ListSystems): Promise<{ written: number; behind: number }> {
  const { db, nats } = systems
  const { created, lastSeq } = await listHead(nats)
  await forgetLostList(db, { created, lastSeq })
  let written = 0
  for (let full = true; full; ) {
    const facts = await unwrittenFacts(db)
    full = facts.length === BATCH
    for (const fact of facts) {
      const secret = await systems.erasureSecret()
      const { seq } = await nats.store({
        subject: `tabib.erasures.${fact.kind}`,
        messageId: `${fact.kind}:${fact.ref}`,
        headers: new Map(),
        payload: Buffer.from(await signFact(secret, fact)),
      })
      await db.query(
        `insert into tabib.erasure_memory (kind, ref, seq) values ($1, $2, $3)
         on conflict (kind, ref) do update set seq = excluded.seq`,
        [fact.kind, fact.ref, seq],
      )
      written += 1
    }
  }
  const { head, applied } = await advanceMark(systems)
  return { written, behind: head - applied }
}

/**
 * What the list says and the database does not know, oldest first: a restore took it away. What somebody put into the
 * stream without the erasure secret counts for nothing; the secret is asked for only where something is unknown.
 */
export async function* missingFacts(
  { db, nats, erasureSecret }: ListSystems,
  { after }: { after: number },
): AsyncGenerator<{ seq: number; missing: Fact[] }> {
  for await (const { seq, entries } of entryBatches(nats, after)) {
    const unknown = new Set(
      await unknownFacts(
        db,
        entries.map(({ fact }) => fact),
      ),
    )
    const missing = entries.filter(({ fact }) => unknown.has(fact))
    yield { seq, missing: missing.length === 0 ? [] : await genuine(await erasureSecret(), missing) }
  }
}

/** Everything that the list says, in batches; `seq` is the last of each. */
export async function* factBatches({
  nats,
  erasureSecret,
}: Pick<ListSystems, 'nats' | 'erasureSecret'>): AsyncGenerator<{ seq: number; facts: Fact[] }> {
  for await (const { seq, entries } of entryBatches(nats, 0)) {
    yield { seq, facts: entries.length === 0 ? [] : await genuine(await erasureSecret(), entries) }
  }
}

/** A fact as it lies in the stream, which anybody may have put there. */
interface Entry {
  fact: Fact
  payload: Uint8Array
}

async function* entryBatches(nats: Nats, after: number): AsyncGenerator<{ seq: number; entries: Entry[] }> {
  let entries: Entry[] = []
  let last = after
  for await (const { seq, payload } of nats.messages(ERASURE_STREAM.name, after + 1, { payloads: true })) {
    const fact = readFact(payload)
    if (fact) entries.push({ fact, payload })
    last = seq
    if (entries.length < BATCH) continue
    yield { seq, entries }
    entries = []
  }
  if (last > after) yield { seq: last, entries }
}

/**
 * Makes anew the streams that NATS has lost with its disk: the saga goes on by what Postgres says, and the list is written
 * again from there.
 */
export async function ensureErasureStreams(nats: Nats, { replicas }: { replicas: number }): Promise<void> {
  for (const stream of [STEP_STREAM, ERASURE_STREAM]) {
    if (!(await nats.stream(stream.name))) await nats.ensureStream({ ...stream, num_replicas: replicas })
  }
}

/** Where the list ends, and since when there is this one. @throws TabibError NATS_UNREACHABLE, MIGRATION_REQUIRED */
export async function listHead(nats: Nats): Promise<{ created: string; lastSeq: number }> {
  const stream = await nats.stream(ERASURE_STREAM.name)
  if (stream) return { created: stream.created, lastSeq: stream.state.last_seq }
  throw new TabibError('MIGRATION_REQUIRED', `there is no stream ${ERASURE_STREAM.name}`, {
    suggestions: ['tabib migrate up'],
  })
}

/** Where the mark stands, and which database this is. */
export interface Mark {
  seq: number
  streamCreated: Date | null
  /** A re-application was begun and has not ended. */
  reapplying: boolean
  /** Which database the mark was set in, and which this is: system identifier, database, timeline. */
  setIn: string | null
  here: string
}

export async function readMark(db: Queryable): Promise<Mark> {
  const [mark] = await db.query<Mark>(
    `select m.seq::float8 as seq, m.stream_created as "streamCreated", m.reapplying,
       m.system_identifier || '/' || m.database_oid || '/' || m.timeline as "setIn",
       s.system_identifier || '/' || d.oid || '/' || c.timeline_id as here
     from tabib.erasure_mark m, pg_control_system() s, pg_control_checkpoint() c, pg_database d
     where d.datname = current_database()`,
  )
  return mark!
}

/** Moves the mark over everything that the database knows. */
export async function advanceMark(systems: ListSystems): Promise<{ head: number; applied: number }> {
  const { db, nats } = systems
  const { created, lastSeq } = await listHead(nats)
  let { seq: applied } = await readMark(db)
  let behind = false
  for await (const { seq, missing } of missingFacts(systems, { after: applied })) {
    behind = missing.length > 0
    if (behind) break
    applied = seq
  }
  // Where the database lacks something, the mark stays in the one that it was set in.
  await db.query(
    `update tabib.erasure_mark m set seq = greatest(seq, $1), stream_created = $2,
       system_identifier = case when $3 then m.system_identifier else s.system_identifier::text end,
       database_oid = case when $3 then m.database_oid else d.oid end,
       timeline = case when $3 then m.timeline else c.timeline_id end
     from pg_control_system() s, pg_control_checkpoint() c, pg_database d
     where d.datname = current_database()
       and (m.seq, m.stream_created, m.system_identifier, m.database_oid, m.timeline)
         is distinct from (greatest(m.seq, $1), $2::timestamptz, s.system_identifier::text, d.oid, c.timeline_id)`,
    [applied, created, behind],
  )
  return { head: Math.max(lastSeq, applied), applied }
}

/** Another stream than the one we wrote to, or one that ends before: it was lost, and all of it is written again. */
async function forgetLostList(
  db: Database,
  { created, lastSeq }: { created: string; lastSeq: number },
): Promise<void> {
  const { seq, streamCreated } = await readMark(db)
  const same = streamCreated === null || streamCreated.getTime() === new Date(created).getTime()
  if (same && seq <= lastSeq) return
  await db.transaction(async (tx) => {
    await tx.query('delete from tabib.erasure_memory')
    await tx.query('update tabib.erasure_mark set seq = 0, stream_created = $1', [created])
  })
}

async function unwrittenFacts(db: Queryable): Promise<Fact[]> {
  const rows = await db.query<{ fact: unknown }>(
    `select fact from (
       select r.requested_at as at, json_build_object('kind', 'request', 'ref', r.id, 'tenantId', r.tenant_id,
         'subjectHash', encode(r.subject_hash, 'hex'), 'authority', r.authority, 'orderJti', r.order_jti,
         'orderDigest', encode(r.order_digest, 'hex'), 'requestedAt', ${iso('r.requested_at')},
         'deadlineAt', ${iso('r.deadline_at')},
         'fingerprints', coalesce((
           select json_agg(json_build_object('kind', f.kind,
             'fingerprint', translate(encode(f.fingerprint, 'base64'), E'\\n', '')))
           from tabib.erasure_fingerprint f
           where (f.tenant_id, f.subject_hash) = (r.tenant_id, r.subject_hash)), '[]')) as fact
       from tabib.erasure_request r
       where r.order_jti is not null
         and not exists (select from tabib.erasure_memory where (kind, ref) = ('request', r.id))
       union all
       select h.placed_at, json_build_object('kind', 'hold', 'ref', h.id, 'tenantId', h.tenant_id,
         'subjectHash', encode(h.subject_hash, 'hex'), 'participants', h.participants, 'authority', h.authority,
         'by', h.placed_by, 'at', ${iso('h.placed_at')})
       from tabib.erasure_hold h
       where not exists (select from tabib.erasure_memory where (kind, ref) = ('hold', h.id))
       union all
       select h.released_at, json_build_object('kind', 'release', 'ref', h.id, 'tenantId', h.tenant_id,
         'subjectHash', encode(h.subject_hash, 'hex'), 'by', h.released_by, 'at', ${iso('h.released_at')})
       from tabib.erasure_hold h
       where h.released_at is not null
         and not exists (select from tabib.erasure_memory where (kind, ref) = ('release', h.id))
     ) unwritten order by at limit ${BATCH}`,
  )
  return rows.map(({ fact }) => factSchema.parse(fact))
}

const iso = (column: string) => `to_char(${column} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

/** A tenant that is not in this database has nobody in it whom to erase; an order that was handed in again is known by itself. */
export async function unknownFacts(db: Queryable, facts: readonly Fact[]): Promise<Fact[]> {
  if (facts.length === 0) return []
  const unknown = await db.query<{ n: number }>(
    `select n::int from unnest($1::text[], $2::uuid[], $3::uuid[], $4::uuid[]) with ordinality as f (kind, ref, tenant_id, jti, n)
     where exists (select from tabib.tenant t where t.id = f.tenant_id) and not case kind
       when 'request' then exists (select from tabib.erasure_request r where r.id = f.ref or r.order_jti = f.jti)
       when 'hold' then exists (select from tabib.erasure_hold h where h.id = f.ref)
       else exists (select from tabib.erasure_hold h where h.id = f.ref and h.released_at is not null) end
     order by n`,
    [
      facts.map(({ kind }) => kind),
      facts.map(({ ref }) => ref),
      facts.map(({ tenantId }) => tenantId),
      facts.map((fact) => (fact.kind === 'request' ? fact.orderJti : null)),
    ],
  )
  return unknown.map(({ n }) => facts[n - 1]!)
}

const listKey = (secret: ErasureSecret) => secret.derive('erasure-list')

const signFact = (secret: ErasureSecret, fact: Fact): Promise<string> =>
  new CompactSign(Buffer.from(JSON.stringify(fact)))
    .setProtectedHeader({ alg: 'HS256', typ: FACT_TYPE })
    .sign(listKey(secret))

function readFact(payload: Uint8Array): Fact | undefined {
  try {
    const said = Buffer.from(Buffer.from(payload).toString().split('.')[1] ?? '', 'base64url').toString()
    return factSchema.parse(JSON.parse(said))
  } catch {
    return undefined
  }
}

async function genuine(secret: ErasureSecret, entries: readonly Entry[]): Promise<Fact[]> {
  const isGenuine = async ({ payload }: Entry) => {
    try {
      const { protectedHeader } = await compactVerify(payload, listKey(secret), { algorithms: ['HS256'] })
      return protectedHeader.typ === FACT_TYPE
    } catch {
      return false
    }
  }
  const judged = await Promise.all(entries.map(isGenuine))
  return entries.filter((_, n) => judged[n]).map(({ fact }) => fact)
}
