export interface Chance {
  /** A whole number from 0 up to and without `limit`. */
  below(limit: number): number
  happens(probability: number): boolean
  pick<T>(from: readonly T[]): T
  /** A key, as often as its weight says; the weights make 1. */
  weighted<K extends string>(weights: Record<K, number>): K
  uuid(): string
}

/** Chance that repeats itself: mulberry32 (Tommy Ettinger, public domain), 32 bits of state. Not for secrets. */
export function randomFrom(seed: number): Chance {
  let state = seed | 0
  const bits = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  const fraction = () => bits() / 2 ** 32
  const chance: Chance = {
    below: (limit) => Math.floor(fraction() * limit),
    happens: (probability) => fraction() < probability,
    pick: (from) => from[chance.below(from.length)] as (typeof from)[number],
    weighted(weights) {
      const entries = Object.entries(weights) as [keyof typeof weights, number][]
      let left = fraction()
      for (const [key, weight] of entries) {
        left -= weight
        if (left < 0) return key
      }
      return entries[0]![0]
    },
    // RFC 9562, version 4: 122 random bits.
    uuid() {
      const hex = Array.from({ length: 4 }, () => bits().toString(16).padStart(8, '0')).join('')
      const variant = '89ab'[Number.parseInt(hex[16] as string, 16) & 3]
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20)}`
    },
  }
  return chance
}
