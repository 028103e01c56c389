import { expect, it } from 'vitest'
import { runChaos } from '../../src/drill/chaos.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()

it('nothing is lost, doubled or out of order while relays, NATS and Postgres are killed', {
  timeout: 180_000,
}, async () => {
  const result = await runChaos(world(), { rounds: 8, seed: 7, signal: new AbortController().signal })
  expect(result.lost).toEqual([])
  expect(result.events).toBeGreaterThan(200)
})
