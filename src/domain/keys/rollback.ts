import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { announceKeys } from './announce.ts'
import { activateKey, enterPhase, listKeys, lockKeys } from './phase.ts'
import { CANDIDATE, destroyEnded, type KeySystems } from './rotate.ts'

/** `abandon`: the new key never signed, and goes. `return`: the key that signed before signs again, the new one drains. */
export interface RollbackPlan {
  purpose: string
  kind: 'abandon' | 'return'
  /** The new key, which never signs again. */
  from: string
  /** The key that signs afterwards. */
  to: string
}

/**
 * How the rotation under way, or the last one, would be undone; reads only.
 * @throws TabibError NOT_NEEDED when there is none, or the old key is retired or may have leaked.
 */
export async function planRollback(
  { db }: { db: Queryable },
  { purpose }: { purpose: string },
): Promise<RollbackPlan> {
  const keys = await listKeys({ db }, { purpose })
  const active = keys.find(({ phase }) => phase === 'activate')
  const candidate = keys.find(({ phase }) => CANDIDATE.includes(phase))
  if (active && candidate) {
    if (active.barred !== null)
      throw nothingTo(purpose, `the key to stay with, ${active.kid}, is ${active.barred}`)
    return { purpose, kind: 'abandon', from: candidate.kid, to: active.kid }
  }
  const draining = keys.filter(({ phase, barred }) => phase === 'drain' && barred === null)
  const [before] = draining.sort((a, b) => a.sinceS - b.sinceS)
  if (!active || !before)
    throw nothingTo(purpose, 'no rotation is under way, and no former key may sign again')
  return { purpose, kind: 'return', from: active.kid, to: before.kid }
}

/**
 * Undoes a rotation, in one transaction. What the new key signed stays good until it expires. Done twice it is refused:
 * a key that was rolled back from is barred, so the second time does not lead back to it.
 * @throws TabibError PLAN_STALE when the keys have moved since the plan.
 */
export async function rollbackRotation(
  systems: KeySystems,
  { plan, by }: { plan: RollbackPlan; by: string },
): Promise<void> {
  const { purpose, kind, from, to } = plan
  await systems.db.transaction(async (tx) => {
    await lockKeys(tx, purpose)
    const now = await planRollback({ db: tx }, { purpose })
    if (now.from !== from || now.to !== to) {
      throw new TabibError('PLAN_STALE', `the keys of ${purpose} have moved since the plan was made`)
    }
    await tx.query(`update tabib.signing_key set barred = 'rolled-back' where kid = $1`, [from])
    if (kind === 'abandon') await enterPhase(tx, { kid: from, from: CANDIDATE, to: 'retire', by })
    else await activateKey(tx, { kid: to, purpose, from: ['drain'], by })
  })
  await announceKeys(systems, { purpose })
  // It is rolled back; what is left, the worker's next pass destroys.
  await destroyEnded(systems, { purpose }).catch(() => {})
}

const nothingTo = (purpose: string, why: string) =>
  new TabibError('NOT_NEEDED', `the keys of ${purpose} cannot be rolled back: ${why}`, {
    suggestions: [`tabib keys status --purpose ${purpose}`],
  })
