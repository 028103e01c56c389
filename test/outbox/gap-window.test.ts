import fc from 'fast-check'
import { expect, it } from 'vitest'
import { advance } from '../../src/domain/outbox/gap-window.ts'
import { NOTHING_DONE, type Position } from '../../src/domain/outbox/position.ts'

const missing = ({ gaps }: Position) =>
  gaps.flatMap(({ low, high }) => Array.from({ length: Number(high - low) + 1 }, (_, i) => Number(low) + i))

it('numbers that are missing are watched until they come', () => {
  const numbers = fc.uniqueArray(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 60 })
  fc.assert(
    fc.property(numbers, fc.integer({ min: 1, max: 10 }), (arrival, pageSize) => {
      let position: Position = NOTHING_DONE
      const come = new Set<number>()
      for (let i = 0; i < arrival.length; i += pageSize) {
        // What a page may hold: numbers above the highest seen, and watched ones below it.
        const page = arrival.slice(i, i + pageSize).sort((a, b) => a - b)
        for (const seq of page) {
          const expected = BigInt(seq) > position.afterSeq || missing(position).includes(seq)
          expect(expected).toBe(true)
          come.add(seq)
        }
        position = advance(position, page.map(BigInt), '100:100:', { now: 0, whole: true })
        const highest = Math.max(...come)
        const absent = Array.from({ length: highest }, (_, n) => n + 1).filter((n) => !come.has(n))
        expect(Number(position.afterSeq)).toBe(highest)
        expect(missing(position)).toEqual(absent)
      }
    }),
  )
})

it('a gap is given up when all transactions that might fill it have ended, twice', () => {
  const seen = advance(NOTHING_DONE, [1n, 3n], '90:100:90', { now: 0, whole: true })
  expect(missing(seen)).toEqual([2])
  const stillOpen = advance(seen, [4n], '90:150:90', { now: 60_000, whole: true })
  expect(missing(stillOpen)).toEqual([2])
  // What fills the gap may lie behind the end of a page that was cut off.
  const cutOff = advance(seen, [4n], '120:150:', { now: 60_000, whole: false })
  expect(cutOff.gaps).toEqual(seen.gaps)
  const tooSoon = advance(seen, [4n], '120:150:', { now: 1_000, whole: true })
  expect(missing(tooSoon)).toEqual([2])
  const once = advance(seen, [4n], '120:150:', { now: 6_000, whole: true })
  expect(missing(once)).toEqual([2])
  // Confirmed at transaction 150: one that took its id meanwhile must end as well.
  expect(missing(advance(once, [5n], '140:160:140', { now: 60_000, whole: true }))).toEqual([2])
  expect(missing(advance(once, [5n], '155:160:', { now: 12_000, whole: true }))).toEqual([])
})
