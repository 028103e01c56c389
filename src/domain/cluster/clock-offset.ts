/** A clock's answer, and when it was asked and answered by this host's clock; all in milliseconds since 1970. */
export interface ClockSample {
  askedAt: number
  answeredAt: number
  told: number
}

/** How far another clock is ahead of this host's. */
export interface ClockOffset {
  offsetMs: number
  /** The true offset lies within this, to either side. */
  errorMs: number
}

/**
 * The other clock's offset, corrected for the way there and back. It told its time at some moment between question and
 * answer, so each sample bounds the offset to both sides (Cristian 1989; with one sample the middle, ± half the round
 * trip, as NTP has it: RFC 5905 section 8); what all bounds have in common (Marzullo 1984) is never wider than that of
 * the sample that was quickest. A clock of whole seconds (`resolutionMs`) is pinned by samples at several moments of one.
 *
 * @param samples oldest first; those before a step of either clock, which contradict the newest, are left out
 * @returns undefined for no sample
 */
export function clockOffset(
  samples: readonly ClockSample[],
  { resolutionMs = 0 } = {},
): ClockOffset | undefined {
  let [least, most] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
  for (const { askedAt, answeredAt, told } of samples.toReversed()) {
    const from = Math.max(least, told - answeredAt - OWN_RESOLUTION_MS)
    const to = Math.min(most, told + resolutionMs - askedAt + OWN_RESOLUTION_MS)
    if (from > to) break
    ;[least, most] = [from, to]
  }
  if (!Number.isFinite(least)) return undefined
  return { offsetMs: (least + most) / 2, errorMs: (most - least) / 2 }
}

// Of `Date.now()`.
const OWN_RESOLUTION_MS = 1

/** Asks a clock once. How long it took is read from a clock that nobody steps. */
export async function sampleClock(ask: () => Promise<number>): Promise<ClockSample> {
  // In this order: whatever holds this process up between the two makes the bounds wider and never wrong.
  const began = performance.now()
  const askedAt = Date.now()
  const told = await ask()
  return { askedAt, answeredAt: askedAt + performance.now() - began, told }
}
