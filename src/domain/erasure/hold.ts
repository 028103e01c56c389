import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { findParticipant, PARTICIPANTS } from './participants.ts'
import { type ErasureSecret, shortName } from './secret.ts'

export interface Hold {
  id: string
  tenantId: string
  /** How the subject is named to people; never who it is. */
  subject: string
  /** Those that keep what they have; null for all. */
  participants: string[] | null
  /** The case or the law. */
  authority: string
  placedBy: string
  placedAt: Date
  releasedAt: Date | null
}

/**
 * Keeps participants from erasing a subject, from this moment on and until it is released. What is erased already stays so.
 * @throws TabibError USAGE for a participant that there is none of.
 */
export async function placeHold(
  { db, secret }: { db: Queryable; secret: ErasureSecret },
  ask: { tenantId: string; subjectId: string; participants: string[] | null; authority: string; by: string },
): Promise<Hold> {
  assertParticipants(ask.participants ?? [])
  const [placed] = await db.query<HoldRow>(
    `insert into tabib.erasure_hold (tenant_id, subject_hash, participants, authority, placed_by)
     values ($1, $2, $3, $4, $5) returning ${COLUMNS}`,
    [ask.tenantId, secret.subjectHash(ask.tenantId, ask.subjectId), ask.participants, ask.authority, ask.by],
  )
  return asHold(placed!)
}

/** @throws TabibError USAGE for a participant that there is none of. */
export function assertParticipants(names: readonly string[]): void {
  const unknown = names.find((name) => findParticipant(name) === undefined)
  if (unknown === undefined) return
  const known = PARTICIPANTS.map(({ id }) => id).join(', ')
  throw new TabibError('USAGE', `there is no participant "${unknown}"; there are ${known}`)
}

/** @throws TabibError NOT_FOUND */
export async function findHold({ db }: { db: Queryable }, id: string): Promise<Hold> {
  const [found] = await db.query<HoldRow>(`select ${COLUMNS} from tabib.erasure_hold where id = $1`, [id])
  if (found) return asHold(found)
  throw new TabibError('NOT_FOUND', `there is no legal hold "${id}"`, {
    suggestions: ['tabib erasure list --holds'],
  })
}

/** Lets the participants go on; the worker sends what waited. Again is no error. @throws TabibError NOT_FOUND */
export async function releaseHold(
  { db }: { db: Queryable },
  { id, by }: { id: string; by: string },
): Promise<Hold> {
  await db.query(
    `update tabib.erasure_hold set released_at = clock_timestamp(), released_by = $2
     where id = $1 and released_at is null`,
    [id, by],
  )
  return findHold({ db }, id)
}

/** Holds in force, oldest first. */
export async function listHolds({ db }: { db: Queryable }): Promise<Hold[]> {
  const rows = await db.query<HoldRow>(
    `select ${COLUMNS} from tabib.erasure_hold where released_at is null order by placed_at, id`,
  )
  return rows.map(asHold)
}

type HoldRow = Omit<Hold, 'subject'> & { hash: Buffer }
const COLUMNS = `id, tenant_id as "tenantId", subject_hash as hash, participants, authority, placed_by as "placedBy",
  placed_at as "placedAt", released_at as "releasedAt"`

function asHold({ hash, ...hold }: HoldRow): Hold {
  return { ...hold, subject: shortName(hash) }
}
