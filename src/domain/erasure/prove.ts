import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { fails } from '../../findings-report.ts'
import { digestOf, type Statement } from './certificate.ts'
import { checkInventory } from './inventory/check.ts'
import { listInventory } from './inventory/index.ts'
import { PARTICIPANTS } from './participants.ts'
import { type ResidualScan, type ScanSystems, scanResidue, searchable } from './residual-scan.ts'
import { findReturned, type Returned } from './returned.ts'
import { shortName } from './secret.ts'

/** Whose erasure is to be proved. */
export interface ProvedSubject {
  tenantId: string
  hash: Buffer
  /** How it is named to people. */
  name: string
}

/** Below this share of planted identifiers, at 95 % confidence, a scan that finds nothing proves nothing. */
const RECALL_WANTED = 0.95

/**
 * The subject that somebody means: by a request's id, by the name that `erasure list` shows, by the whole keyed hash, or,
 * with a tenant, by the patient's id.
 * @throws TabibError NOT_FOUND; USAGE where a name fits several.
 */
export async function findSubject(
  { db, erasureSecret }: Pick<ScanSystems, 'db' | 'erasureSecret'>,
  { named, tenantId }: { named: string; tenantId: string | undefined },
): Promise<ProvedSubject> {
  const text = named.toLowerCase()
  const hex = /^(?:subject-)?([0-9a-f]{12}|[0-9a-f]{64})$/.exec(text)?.[1]
  const isId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text)
  const hash = isId && tenantId ? (await erasureSecret()).subjectHash(tenantId, text).toString('hex') : hex
  const found = await db.query<{ tenantId: string; hash: Buffer }>(
    `select distinct tenant_id as "tenantId", subject_hash as hash from tabib.erasure_request
     where ($1::uuid is null or tenant_id = $1)
       and (id::text = $2 or starts_with(encode(subject_hash, 'hex'), $3))`,
    [tenantId, text, hash ?? null],
  )
  const [subject, ...others] = found
  const suggestions = ['tabib erasure list --state all']
  if (subject === undefined) {
    // The patient's id itself is not repeated.
    throw new TabibError('NOT_FOUND', 'there is no request with this id, and none for this subject', {
      suggestions,
    })
  }
  if (others.length > 0) {
    throw new TabibError('USAGE', `${named} fits ${found.length} subjects: give the request, or --tenant`, {
      suggestions,
    })
  }
  return { ...subject, name: shortName(subject.hash) }
}

/** What can be said of subjects of one tenant, one statement each, from one reading of everything. */
export async function stateErasures(
  systems: ScanSystems,
  {
    subjects,
    version,
    context,
    signal,
    onProgress,
  }: {
    subjects: readonly ProvedSubject[]
    version: string
    context: string
    signal: AbortSignal
    onProgress?: (done: number, all: number, object: string) => void
  },
): Promise<Omit<Statement, 'iss' | 'jti' | 'iat'>[]> {
  const { findings } = await checkInventory(systems, { allRows: false, signal })
  const unclassified = findings.filter(fails)
  const secret = await systems.erasureSecret()
  const readings = new Map<string, Reading>()
  for (const tenantId of new Set(subjects.map((one) => one.tenantId))) {
    const hashes = subjects.filter((one) => one.tenantId === tenantId).map(({ hash }) => hash)
    readings.set(tenantId, {
      unclassified,
      returned: await findReturned({ db: systems.db, secret }, { tenantId, signal }),
      scan: await scanResidue(systems, { tenantId, hashes, signal, onProgress }),
    })
  }
  const statements = []
  for (const subject of subjects) {
    const reading = readings.get(subject.tenantId)!
    statements.push({ version, context, ...(await stateErasure(systems, subject, reading)) })
  }
  return statements
}

/** What was read of a tenant, for all of its subjects. */
interface Reading {
  scan: ResidualScan
  /** Whose ids are there again. */
  returned: readonly Returned[]
  unclassified: readonly { object: string; message: string }[]
}

async function stateErasure(
  { db }: ScanSystems,
  subject: ProvedSubject,
  { scan, returned, unclassified }: Reading,
): Promise<Omit<Statement, 'iss' | 'jti' | 'iat' | 'version' | 'context'>> {
  const hex = subject.hash.toString('hex')
  const requests = await readRequests(db, subject)
  const holds = await readHolds(db, subject)
  const { fingerprints, unsearchable } = await searchable(db, subject)
  const hits = scan.hits.filter((hit) => hit.subject === hex).map(({ subject: _, ...hit }) => hit)
  const shared = scan.shared.filter((one) => one.subject === hex)
  const open: Statement['open'] = [
    ...requests.flatMap(openSteps),
    ...(requests.some(({ steps }) => steps.length > 0)
      ? []
      : [
          {
            what: 'step' as const,
            detail: 'a restore has lost what was done; nobody was erased again since',
            fix: null,
          },
        ]),
    ...holds.map(({ authority, participants }) => ({
      what: 'legal hold' as const,
      detail: `${authority} keeps what ${participants?.join(', ') ?? 'every participant'} has`,
      fix: 'tabib erasure list --holds',
    })),
    ...(await unremembered(db, subject)),
    ...returned
      // What an open request has still to do is no return.
      .filter(({ hash }) => hash.equals(subject.hash) && requests.every(({ state }) => state !== 'open'))
      .map(({ place }) => ({
        what: 'returned' as const,
        detail: `${place} is of the subject again`,
        fix: 'tabib erasure replay --confirm erasures --reason "<why>"',
      })),
    ...hits.map(({ object, kind, count }) => ({
      what: 'residue' as const,
      detail: `${object} has an identifier of the subject (${kind}) in ${count} ${count === 1 ? 'place' : 'places'}`,
      fix: 'tabib erasure reconcile',
    })),
    ...(fingerprints.length > 0
      ? []
      : [
          {
            what: 'scan' as const,
            detail: 'nothing is known that the subject could be searched by',
            fix: null,
          },
        ]),
    ...(scan.canaries.lowerBound >= RECALL_WANTED
      ? []
      : [
          {
            what: 'scan' as const,
            detail: `it finds ${scan.canaries.found} of ${scan.canaries.planted} planted identifiers, which is too few to prove anything`,
            fix: null,
          },
        ]),
    ...scan.unread.map(({ object, why }) => ({
      what: 'unread' as const,
      detail: `${object} could not be read: ${why}`,
      fix: null,
    })),
    ...unclassified.map(({ object, message }) => ({
      what: 'inventory' as const,
      detail: `${object}: ${message}`,
      fix: 'tabib erasure inventory --check',
    })),
  ]
  const { places, canaries } = scan
  return {
    outcome: open.length === 0 ? ('complete' as const) : ('open' as const),
    tenantId: subject.tenantId,
    subject: hex,
    open,
    requests,
    rows: requests
      .flatMap(({ steps }) => steps.flatMap(({ rows }) => Object.values(rows)))
      .reduce((sum, n) => sum + n, 0),
    deadline: await readDeadline(db, subject),
    coverage: coverageOf(requests, unclassified.length),
    holds,
    scan: {
      places: places.length,
      rows: scan.rows,
      bytes: scan.bytes,
      wallS: rounded(scan.wallS),
      cpuS: rounded(scan.cpuS),
      scanCpuS: rounded(scan.scanCpuS),
      bytesPerCpuS: Math.round(scan.bytes / Math.max(scan.scanCpuS, 1e-6)),
      searchedFor: Object.fromEntries(
        [...new Set(fingerprints.map(({ kind }) => kind))].map((kind) => [
          kind,
          fingerprints.filter((one) => one.kind === kind).length,
        ]),
      ),
      hits,
      canaries: {
        planted: canaries.planted,
        found: canaries.found,
        recall: rounded(canaries.recall),
        lowerBound: rounded(canaries.lowerBound),
        confidence: 0.95,
      },
      cutShort: scan.cutShort,
    },
    gaps: [
      ...[...new Set(shared.map(({ kind }) => kind))].map(
        (kind) => `an identifier of kind ${kind} is another patient’s as well, and was not searched for`,
      ),
      ...unsearchable.map((kind) => `an identifier of kind ${kind} is of a form that cannot be searched for`),
      ...canaries.missed.map((how) => `not found where it was planted: ${how}`),
      ...(scan.cutShort > 0 ? [`${scan.cutShort} places were not decoded to their end`] : []),
      'names are not searched for: others have the same',
      'statements are erased by the subject’s id, and what is in others’ is not read',
    ],
  }
}

const rounded = (n: number): number => Math.round(n * 1e4) / 1e4

type RequestStatement = Statement['requests'][number]

/** What a request still waits for. */
function openSteps({ id, state, steps }: RequestStatement): Statement['open'] {
  const fix = `tabib erasure list ${id}`
  const waiting = steps
    .filter((step) => step.state !== 'done' || step.rereadAt === null)
    .map(({ participant, state, acknowledgedAt }) => ({
      what: 'step' as const,
      detail: `${participant} of request ${id} is ${state}${acknowledgedAt === null ? ', not acknowledged' : state === 'done' ? ', not read again yet' : ', to be done again'}`,
      fix,
    }))
  if (waiting.length > 0 || state === 'complete') return waiting
  return [
    { what: 'watch', detail: `request ${id} is watched for late events until it is read once more`, fix },
  ]
}

async function readRequests(db: Queryable, { tenantId, hash }: ProvedSubject): Promise<RequestStatement[]> {
  const iso = (column: string) => `to_char(${column} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
  return db.query<RequestStatement>(
    `select r.id, r.follows, encode(r.order_digest, 'hex') as "orderDigest", r.state, ${iso('r.requested_at')} as "requestedAt",
       ${iso('r.completed_at')} as "completedAt",
       coalesce((select json_agg(json_build_object('participant', s.participant, 'stage', s.stage, 'state', s.state,
           'rounds', s.round, 'attempts', s.attempts, 'rows', coalesce(a.rows, '{}'), 'position', a.position,
           'acknowledgedAt', ${iso('a.at')},
           'rereadAt', case when s.reread_found = 0 then ${iso('s.reread_at')} end,
           'rereadAfterWatchAt', case when s.second_reread_found = 0 then ${iso('s.second_reread_at')} end)
           order by s.stage, s.participant)
         from tabib.erasure_step s left join lateral (
           select max(k.acked_at) as at, (array_agg(k.position order by k.round desc))[1] as position,
             (select json_object_agg(place, n) from (
               select d.key as place, sum(d.value::bigint) as n
               from tabib.erasure_ack own, jsonb_each_text(own.detail) d
               where (own.request_id, own.participant) = (s.request_id, s.participant) group by d.key) by_place) as rows
           from tabib.erasure_ack k where (k.request_id, k.participant) = (s.request_id, s.participant)) a on true
         where s.request_id = r.id), '[]') as steps
     from tabib.erasure_request r
     where r.tenant_id = $1 and r.subject_hash = $2 order by r.requested_at, r.id`,
    [tenantId, hash],
  )
}

function readHolds(db: Queryable, { tenantId, hash }: ProvedSubject): Promise<Statement['holds']> {
  return db.query<Statement['holds'][number]>(
    `select authority, participants, to_char(placed_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as "placedAt"
     from tabib.erasure_hold where tenant_id = $1 and subject_hash = $2 and released_at is null order by placed_at`,
    [tenantId, hash],
  )
}

/** Of the first request: one that follows it has no time of its own. */
async function readDeadline(
  db: Queryable,
  { tenantId, hash }: ProvedSubject,
): Promise<Statement['deadline']> {
  const [deadline] = await db.query<Statement['deadline']>(
    `select to_char(first.deadline_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at,
       round(extract(epoch from first.deadline_at - first.requested_at) / 86400, 2)::float8 as days,
       round(extract(epoch from done.at - first.requested_at) / 86400, 2)::float8 as "usedDays",
       round(extract(epoch from done.at - first.requested_at)
         / extract(epoch from first.deadline_at - first.requested_at), 4)::float8 as used,
       done.at <= first.deadline_at as met
     from (select * from tabib.erasure_request where tenant_id = $1 and subject_hash = $2
           order by requested_at, id limit 1) first,
       lateral (
         select case when bool_and(state = 'complete') then max(completed_at) else clock_timestamp() end as at
         from tabib.erasure_request where tenant_id = $1 and subject_hash = $2) done`,
    [tenantId, hash],
  )
  return deadline!
}

/** What a restore would not erase again. */
async function unremembered(db: Queryable, { tenantId, hash }: ProvedSubject): Promise<Statement['open']> {
  const [row] = await db.query<{ n: number }>(
    `select count(*)::int as n from tabib.erasure_request r
     where r.tenant_id = $1 and r.subject_hash = $2 and r.order_jti is not null
       and not exists (select from tabib.erasure_memory m where (m.kind, m.ref) = ('request', r.id))`,
    [tenantId, hash],
  )
  if (row!.n === 0) return []
  const detail =
    'it does not stand in the list outside of the database yet: a restore would bring the subject back'
  return [{ what: 'list', detail, fix: 'tabib worker run erasure-replay --once' }]
}

function coverageOf(requests: readonly RequestStatement[], unclassified: number): Statement['coverage'] {
  const items = listInventory()
  const acknowledged = new Set(
    requests.flatMap(({ steps }) =>
      steps.filter((one) => one.acknowledgedAt !== null).map((one) => one.participant),
    ),
  )
  const ofSubjects = items.filter((item) => item.class !== 'none')
  return {
    inventory: digestOf(items),
    unclassified,
    participants: PARTICIPANTS.map(({ id }) => {
      const own = ofSubjects.filter(({ erasure }) => erasure?.by === id)
      const byClass: Record<string, number> = {}
      for (const item of own) byClass[item.class] = (byClass[item.class] ?? 0) + 1
      return { participant: id, items: own.length, byClass, acknowledged: acknowledged.has(id) }
    }),
    heldByLaw: ofSubjects.flatMap(({ object, hold, retention }) =>
      hold ? [{ object, hold, retention }] : [],
    ),
    expiring: ofSubjects.flatMap(({ object, class: kind, retention, erasure, hold }) =>
      hold === undefined && (erasure === undefined || erasure.how === 'expire')
        ? [{ object, class: kind, retention }]
        : [],
    ),
  }
}
