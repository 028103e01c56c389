import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { fingerprints, gatherIdentifiers, type Identifiers, sealIdentifiers } from './identifiers.ts'
import { type Rows, total } from './participant.ts'
import { PARTICIPANTS } from './participants.ts'
import { asErasure, pseudonymsOf } from './perform.ts'
import { scanFingerprints } from './residual-scan.ts'
import { type ErasureSecret, shortName } from './secret.ts'

export interface OpenedRequest {
  requestId: string
  /** How the subject is named to people; never who it is. */
  subject: string
  deadlineAt: Date
  /** Participants that keep what they have, since a legal hold says so. */
  held: string[]
}

/** What an erasure would find now. */
export interface RequestPlan {
  tenantId: string
  subject: string
  /** Rows in Postgres by participant and table; without objects and caches. */
  rows: Record<string, Rows>
  held: string[]
}

/** Of a tenant that says nothing else: GDPR article 12(3) gives a month. */
const LEGAL_DAYS = 30

/**
 * What erasing a patient would change; reads only.
 * @throws TabibError NOT_FOUND when the tenant has no such patient, NOT_NEEDED when their erasure is under way.
 */
export async function planRequest(
  { db, secret }: { db: Database; secret: ErasureSecret },
  { tenantId, subjectId }: { tenantId: string; subjectId: string },
): Promise<RequestPlan> {
  const hash = secret.subjectHash(tenantId, subjectId)
  return asErasure(db, tenantId, async (tx) => {
    await assertNotUnderWay(tx, hash)
    const { rows } = await look(tx, secret, { tenantId, subjectId, hash })
    return { tenantId, subject: shortName(hash), rows, held: await heldParticipants(tx, hash) }
  })
}

/**
 * Opens a request with its steps, and remembers the subject's keyed hash for ever. `order` is the authority for it; a
 * request that `follows` another erases what came back.
 *
 * @returns 'used' when the order was accepted before.
 * @throws TabibError NOT_FOUND, NOT_NEEDED, as `planRequest`.
 */
export async function openRequest(
  { db, secret }: { db: Database; secret: ErasureSecret },
  ask: {
    tenantId: string
    subjectId: string
    authority: string
    order: { jti: string | null; digest: string }
    follows?: string
    /** Where the subject's id is not known any more: `subjectId` is then the nil UUID. */
    knownAs?: { hash: Buffer; phones: string[]; emails: string[] }
  },
): Promise<OpenedRequest | 'used'> {
  const { tenantId, subjectId, authority, order, follows, knownAs } = ask
  const hash = knownAs?.hash ?? secret.subjectHash(tenantId, subjectId)
  const { identifiers: gathered, held } = await asErasure(db, tenantId, async (tx) => ({
    ...(await look(tx, secret, { tenantId, subjectId, hash })),
    held: await heldParticipants(tx, hash),
  }))
  const identifiers = { ...gathered, ...(knownAs && { phones: knownAs.phones, emails: knownAs.emails }) }
  return db.transaction(async (tx) => {
    // Of two orders for one subject the second finds the first's request.
    await tx.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [
      `erasure:${tenantId}:${hash.toString('hex')}`,
    ])
    const used = await tx.query('select from tabib.erasure_request where order_jti = $1', [order.jti])
    if (used.length > 0) return 'used'
    await assertNotUnderWay(tx, hash)
    const [opened] = await tx.query<{ id: string; deadlineAt: Date }>(
      `insert into tabib.erasure_request (tenant_id, subject_hash, authority, order_jti, order_digest, follows, sealed, deadline_at)
       values ($1, $2, $3, $4, decode($5, 'hex'), $6, '', clock_timestamp() + make_interval(days => coalesce((
           select (document->'privacy'->>'erasureDays')::int from tabib.tenant_profile where tenant_id = $1), $7)))
       returning id, deadline_at as "deadlineAt"`,
      [tenantId, hash, authority, order.jti, order.digest, follows, LEGAL_DAYS],
    )
    const requestId = opened!.id
    await tx.query('update tabib.erasure_request set sealed = $2 where id = $1', [
      requestId,
      sealIdentifiers(secret, requestId, identifiers),
    ])
    await tx.query(
      `insert into tabib.erasure_step (request_id, participant, tenant_id, stage)
       select $1, participant, $2, stage from unnest($3::text[], $4::smallint[]) as step (participant, stage)`,
      [requestId, tenantId, PARTICIPANTS.map(({ id }) => id), PARTICIPANTS.map(({ stage }) => stage)],
    )
    await rememberSubject(tx, secret, { tenantId, hash, requestId, identifiers })
    return { requestId, subject: shortName(hash), deadlineAt: opened!.deadlineAt, held }
  })
}

/** Keeps the keyed hashes of a subject and of their identifiers for ever; twice is once. */
export async function rememberSubject(
  tx: Transaction,
  secret: ErasureSecret,
  {
    tenantId,
    hash,
    requestId,
    identifiers,
  }: { tenantId: string; hash: Buffer; requestId: string; identifiers: Identifiers },
): Promise<void> {
  await tx.query(
    `insert into tabib.erasure_subject (tenant_id, subject_hash, request_id) values ($1, $2, $3)
     on conflict do nothing`,
    [tenantId, hash, requestId],
  )
  const prints = [
    ...fingerprints(secret, tenantId, identifiers),
    ...scanFingerprints(secret, tenantId, identifiers),
  ]
  await tx.query(
    `insert into tabib.erasure_fingerprint (tenant_id, subject_hash, kind, fingerprint)
     select $1, $2, kind, fingerprint from unnest($3::text[], $4::bytea[]) as print (kind, fingerprint)
     on conflict do nothing`,
    [tenantId, hash, prints.map(({ kind }) => kind), prints.map(({ fingerprint }) => fingerprint)],
  )
}

/** What there is of a subject, who must be one of the tenant's, or have been. */
async function look(
  tx: Transaction,
  secret: ErasureSecret,
  { tenantId, subjectId, hash }: { tenantId: string; subjectId: string; hash: Buffer },
): Promise<{ identifiers: Identifiers; rows: Record<string, Rows> }> {
  const identifiers = await gatherIdentifiers(tx, subjectId)
  const subject = { tenantId, hash, identifiers, ...pseudonymsOf(secret, hash) }
  const rows: Record<string, Rows> = {}
  for (const participant of PARTICIPANTS) rows[participant.id] = await participant.count(tx, subject)
  const found = Object.values(rows).some((one) => total(one) > 0)
  const known = await tx.query('select from tabib.erasure_subject where subject_hash = $1', [hash])
  if (found || known.length > 0) return { identifiers, rows }
  throw new TabibError('NOT_FOUND', `the tenant ${tenantId} has no such patient, and never had one erased`, {
    suggestions: ['tabib tenant list'],
  })
}

async function assertNotUnderWay(tx: Transaction, hash: Buffer): Promise<void> {
  const [open] = await tx.query<{ id: string }>(
    `select id from tabib.erasure_request where subject_hash = $1 and state <> 'complete'`,
    [hash],
  )
  if (!open) return
  throw new TabibError('NOT_NEEDED', `${shortName(hash)} is being erased already, by request ${open.id}`, {
    suggestions: [`tabib erasure list ${open.id}`],
    context: { requestId: open.id },
  })
}

/** Which participants must keep what they have of a subject. */
export async function heldParticipants(tx: Transaction, hash: Buffer): Promise<string[]> {
  const holds = await tx.query<{ participants: string[] | null }>(
    'select participants from tabib.erasure_hold where subject_hash = $1 and released_at is null',
    [hash],
  )
  const held = (id: string) => holds.some(({ participants }) => participants?.includes(id) ?? true)
  return PARTICIPANTS.map(({ id }) => id).filter(held)
}
