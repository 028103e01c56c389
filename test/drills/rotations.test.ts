import { expect, it } from 'vitest'
import { runRotations } from '../../src/drill/rotations.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()

it('no valid token is refused while keys rotate and replicas are killed in mid-phase; revoked keys are, everywhere', {
  timeout: 180_000,
}, async () => {
  const { signal } = new AbortController()
  const result = await runRotations(world(), { rotations: 3, revocations: 1, seed: 7, signal })
  expect(result.rejected).toEqual([])
  expect(result).toMatchObject({ rotations: 3, killedIn: { prepare: 1, publish: 1, attest: 1 } })
  expect(result.tokens).toBeGreaterThan(100)
  // Each replica came to refuse, told by NATS and without it.
  expect(result.refusedAfterS.natsUp).toHaveLength(3)
  expect(result.refusedAfterS.natsDown).toHaveLength(3)
})
