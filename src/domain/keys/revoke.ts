import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { announceKeys } from './announce.ts'
import {
  activateKey,
  enterPhase,
  KEY_PHASES,
  type KeyPhase,
  listKeys,
  lockKeys,
  type SigningKey,
} from './phase.ts'
import { compareRevocations, rememberRevocation } from './remember.ts'
import { CANDIDATE, destroyEnded, type KeySystems, kidIn, prepareKey } from './rotate.ts'

export interface RevocationPlan {
  kid: string
  purpose: string
  phase: KeyPhase
  /** Who signs afterwards: the key under way, a `new` one, or, when another key signs already, that one. */
  successor: string | 'new'
}

/** What revoking a key would do; reads only. @throws TabibError NOT_FOUND */
export async function planRevocation(
  { db }: { db: Queryable },
  { kid }: { kid: string },
): Promise<RevocationPlan> {
  const { key, others } = await findKey(db, kid)
  const signing = kidIn(others, ['activate'])
  return {
    kid,
    purpose: key.purpose,
    phase: key.phase,
    successor: signing ?? kidIn(others, CANDIDATE) ?? 'new',
  }
}

export interface Revocation {
  kid: string
  purpose: string
  /** False when it was revoked before; nothing is done twice. */
  revoked: boolean
  /** Who signs now; null when the key store is away and no other key was at hand: nothing is signed until it is back. */
  successor: string | null
  announced: boolean
  /** Why the private half is not destroyed yet, in words; empty when it is. */
  undestroyed: string[]
}

/**
 * Refuses everything that a key signed, everywhere, and has another key sign. The row in `tabib.key_revocation` is
 * written in the transaction that revokes: whoever must act on it (end sessions, list what was accepted) reads it there.
 * Verifiers do not wait for their caches here: a valid token of the new key may meet one that has to fetch it first.
 */
export async function revokeKey(
  systems: KeySystems,
  { kid, reason, by, runId }: { kid: string; reason: string; by: string; runId: string },
): Promise<Revocation> {
  const { db } = systems
  const { key } = await findKey(db, kid)
  const { purpose } = key
  const next = key.phase === 'activate' ? await successorOf(systems, key, by) : null
  const revoked = await db.transaction(async (tx) => {
    await lockKeys(tx, purpose)
    if (next !== null) await activateKey(tx, { kid: next, purpose, from: CANDIDATE, by })
    const entered = await enterPhase(tx, { kid, from: NOT_REVOKED, to: 'revoked', by })
    if (entered) {
      await tx.query(
        `insert into tabib.key_revocation (kid, purpose, reason, revoked_by, run_id) values ($1, $2, $3, $4, $5)`,
        [kid, purpose, reason, by, runId],
      )
    }
    return entered
  })
  // Whoever holds a copy is refused already; what does not answer soon hears of it at the worker's next pass.
  const [announced, , undestroyed] = await Promise.all([
    soon(announceKeys(systems, { purpose, revoked: [kid] })),
    soon(rememberRevocation(systems, { kid }).catch(() => {})),
    soon(destroyEnded(systems, { purpose }).catch(() => undefined)),
  ])
  // Another may have come to sign, or to sign no more, since the key was looked up.
  const successor = kidIn(await listKeys({ db }, { purpose }), ['activate'])
  return {
    kid,
    purpose,
    revoked,
    successor,
    announced: announced?.announced ?? false,
    undestroyed: undestroyed ?? [
      `the private half of ${kid} is not destroyed yet: the key store has not answered`,
    ],
  }
}

/**
 * Revokes again what a restore of the database has un-revoked, and has NATS remember what it did not hear of.
 * @returns how many were revoked again.
 * @throws TabibError NATS_UNREACHABLE
 */
export async function recallRevocations(systems: KeySystems): Promise<number> {
  const { unrevoked, unremembered } = await compareRevocations(systems)
  for (const { kid } of unrevoked) {
    const reason = 'revoked before; the database was restored to a time before that'
    await revokeKey(systems, { kid, reason, by: 'key-rotation', runId: randomUUID() })
  }
  for (const kid of unremembered) await rememberRevocation(systems, { kid })
  return unrevoked.length
}

const NOT_REVOKED = KEY_PHASES.filter((phase) => phase !== 'revoked')

/** A key that can take over; null when none can be made now, which must not keep a leaked key in use. */
async function successorOf(systems: KeySystems, key: SigningKey, by: string): Promise<string | null> {
  const { purpose, algorithm, kid: active } = key
  // To derive the key of a folder of keys takes a good part of that time on a busy host.
  await soon(systems.keyStore().catch(() => undefined))
  const preparing = prepareKey(systems, { purpose, algorithm, policy: key, active, by }).catch((error) => {
    if (error instanceof TabibError) return null
    throw error
  })
  return (await soon(preparing)) ?? null
}

const SOON_MS = 2_000

/** What comes of work, if it comes soon: a key store or NATS that hangs must not keep a leaked key in use either. */
async function soon<T>(work: Promise<T>): Promise<T | undefined> {
  const late = new AbortController()
  try {
    return await Promise.race([work, delay(SOON_MS, undefined, { signal: late.signal })])
  } finally {
    late.abort()
  }
}

async function findKey(db: Queryable, kid: string): Promise<{ key: SigningKey; others: SigningKey[] }> {
  const all = await listKeys({ db }, { ended: true })
  const key = all.find((one) => one.kid === kid)
  if (key === undefined) {
    throw new TabibError('NOT_FOUND', `no signing key "${kid}"`, { suggestions: ['tabib keys list'] })
  }
  return { key, others: all.filter((one) => one.purpose === key.purpose && one.kid !== kid) }
}
