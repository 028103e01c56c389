import type { Queryable } from '../../adapters/postgres/client.ts'
import { activationWaits, listVerifiers, type VerifierOnRecord } from './attest.ts'
import { type KeyPhase, listKeys } from './phase.ts'
import { CANDIDATE, drainLeftS } from './rotate.ts'
import { isRotationDue } from './rotate-due.ts'

/** How the keys of one purpose stand. */
export interface PurposeStatus {
  purpose: string
  /** The key that signs; null when none does. */
  active: string | null
  algorithm: string | null
  ageS: number | null
  /** The rotation under way, and what it waits for. */
  rotation: { kid: string; phase: KeyPhase; waits: string[] } | null
  /** Keys that no longer sign, and the seconds until each is retired. */
  draining: { kid: string; leftS: number }[]
  verifiers: VerifierOnRecord[]
  /** Ended keys whose private half is not destroyed yet, and the store that it lies in. */
  undestroyed: { kid: string; store: string | null }[]
  /** What somebody should see to, in words. */
  problems: string[]
}

/** How the keys of every purpose stand, or of one; reads only. */
export async function keysStatus(
  { db }: { db: Queryable },
  {
    purpose,
    maxAgeS,
    unrevoked = [],
  }: {
    purpose?: string | undefined
    maxAgeS: number
    /** Keys that are remembered as revoked outside of this database; see `compareRevocations`. */
    unrevoked?: readonly { kid: string; purpose: string }[]
  },
): Promise<PurposeStatus[]> {
  const known = await db.query<{ purpose: string }>(
    'select distinct purpose from tabib.signing_key where $1::text is null or purpose = $1 order by purpose',
    [purpose],
  )
  const all = await Promise.all(known.map((one) => statusOf(db, one.purpose, maxAgeS)))
  return all.map((status) => {
    const forgotten = unrevoked.filter((key) => key.purpose === status.purpose)
    const problems = forgotten.map(
      ({ kid }) =>
        `${kid} was revoked, and this database does not say so: it was restored; next: tabib worker run key-rotation --once`,
    )
    return { ...status, problems: [...status.problems, ...problems] }
  })
}

async function statusOf(db: Queryable, purpose: string, maxAgeS: number): Promise<PurposeStatus> {
  const [keys, verifiers, undestroyed] = await Promise.all([
    listKeys({ db }, { purpose }),
    listVerifiers({ db }, { purpose }),
    db.query<{ kid: string; store: string | null }>(
      `select kid, store from tabib.signing_key
       where purpose = $1 and phase in ('retire', 'revoked') and destroyed_at is null order by since`,
      [purpose],
    ),
  ])
  const active = keys.find(({ phase }) => phase === 'activate')
  const candidate = keys.find(({ phase }) => CANDIDATE.includes(phase))
  const waits = active && candidate ? await activationWaits(db, candidate) : []
  const behind = verifiers.filter(({ holds, state }) => holds === 'other' && state === 'live')
  const longS = candidate ? candidate.cacheAgeS + candidate.skewS : 0
  return {
    purpose,
    active: active?.kid ?? null,
    algorithm: active?.algorithm ?? null,
    ageS: active ? Math.floor(active.ageS) : null,
    rotation: candidate ? { kid: candidate.kid, phase: candidate.phase, waits } : null,
    draining: active
      ? keys
          .filter(({ phase }) => phase === 'drain')
          .map((key) => ({ kid: key.kid, leftS: Math.max(0, drainLeftS(key, active)) }))
      : [],
    verifiers,
    undestroyed,
    problems: [
      ...(active ? [] : ['no key signs']),
      ...(active && isRotationDue(keys, maxAgeS)
        ? [
            active.barred
              ? `the key that signs is ${active.barred}`
              : 'the key that signs is older than it may be',
          ]
        : []),
      // In its own time a verifier fetches the new set; one that has not after that never will.
      ...(candidate && (candidate.publishedS ?? 0) > longS
        ? behind.map(({ instance }) => `${instance} does not hold the published keys`)
        : []),
    ],
  }
}
