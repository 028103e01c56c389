/**
 * How many connections a load wants. By Little's law (1961) rate × time of a transaction are busy on average; by
 * Erlang's C formula (1917) a pool of that many would nearly always have a queue, so it is the smallest in which no more
 * than one transaction in twenty waits at all: then the 95th percentile of the wait is nothing.
 *
 * @param busy connections that the load keeps busy on average
 */
export function connectionsFor(busy: number): number {
  if (!(busy > 0)) return LEAST
  // Erlang B of one connection more from that of one less, which no factorial overflows.
  let blocked = 1
  for (let count = 1; count < MOST; count += 1) {
    blocked = (busy * blocked) / (count + busy * blocked)
    const waits = count > busy ? blocked / (1 - (busy / count) * (1 - blocked)) : 1
    if (waits <= MAY_WAIT && count >= LEAST) return count
  }
  return MOST
}

const MAY_WAIT = 0.05
// Of one alone every long transaction would make all others wait.
const LEAST = 2
const MOST = 10_000
