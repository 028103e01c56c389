import type { SigningAlgorithm } from '../../adapters/keystore/client.ts'
import { forgetVerifiers } from './attest.ts'
import { type KeyPolicy, listKeys, type SigningKey } from './phase.ts'
import { advanceKeys, CANDIDATE, type KeySystems, kidIn, rotateKeys } from './rotate.ts'

const BY = 'key-rotation'

/**
 * One pass over every purpose that ever had a key: starts the rotations that are due, and moves those under way on.
 * A purpose that fails does not keep the others waiting; its error is thrown at the end.
 */
export async function rotateDueKeys(
  systems: KeySystems,
  { algorithm, policy, maxAgeS }: { algorithm: SigningAlgorithm; policy: KeyPolicy; maxAgeS: number },
): Promise<{ purposes: number; moved: number; waits: string[]; undestroyed: string[] }> {
  const { db } = systems
  const purposes = await db.query<{ purpose: string }>(
    'select distinct purpose from tabib.signing_key order by purpose',
  )
  const result = { purposes: purposes.length, moved: 0, waits: [] as string[], undestroyed: [] as string[] }
  const failures: unknown[] = []
  for (const { purpose } of purposes) {
    try {
      const due = isRotationDue(await listKeys({ db }, { purpose }), maxAgeS)
      const { moved, waits, undestroyed } = due
        ? await rotateKeys(systems, { purpose, algorithm, policy, by: BY })
        : await advanceKeys(systems, { purpose, by: BY })
      result.moved += moved.length
      result.undestroyed.push(...undestroyed)
      result.waits.push(...waits.map((wait) => `${purpose}: ${wait}`))
    } catch (error) {
      failures.push(error)
    }
  }
  await forgetVerifiers({ db })
  if (failures.length > 0) throw failures[0]
  return result
}

/** No key signs, or the one that does is barred or too old, and none is on its way. */
export function isRotationDue(keys: readonly SigningKey[], maxAgeS: number): boolean {
  if (kidIn(keys, CANDIDATE) !== null) return false
  const active = keys.find(({ phase }) => phase === 'activate')
  return active === undefined || active.barred !== null || active.ageS > maxAgeS
}
