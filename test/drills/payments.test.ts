import { expect, it } from 'vitest'
import { runPayments } from '../../src/drill/payments.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()

it('a payment is made once for its key, whoever asks and whatever is killed', {
  timeout: 120_000,
}, async () => {
  const { signal } = new AbortController()
  const result = await runPayments(world(), { rounds: 30, duplicates: 50, calm: 3, seed: 5, signal })
  expect(result.doubled).toEqual([])
  expect(result).toMatchObject({ rounds: 30 })
  expect(result.answers['201 replayed']).toBeGreaterThan(30 * 40)
  expect(Math.min(result.apiKills, result.redisKills, result.redisFlushes)).toBeGreaterThan(0)
})
