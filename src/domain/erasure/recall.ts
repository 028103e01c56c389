/**
 * The lower end of what a share may be of which `found` of `planted` were seen: the exact one-sided bound of Clopper and
 * Pearson, Biometrika 26 (1934), at 95 % confidence.
 */
export function recallBound(found: number, planted: number): number {
  if (found === 0 || planted === 0) return 0
  let [low, high] = [0, found / planted]
  // The share at which so many or more would be found in one of twenty attempts.
  for (let step = 0; step < 60; step += 1) {
    const middle = (low + high) / 2
    if (atLeast(found, planted, middle) < 0.05) low = middle
    else high = middle
  }
  return low
}

/** The probability of `k` or more successes of `n`, each with probability `p`. */
function atLeast(k: number, n: number, p: number): number {
  if (p <= 0) return 0
  // The term of n successes, then downwards, in logarithms: factorials do not fit a float.
  let log = n * Math.log(p)
  let sum = Math.exp(log)
  for (let i = n; i > k; i -= 1) {
    log += Math.log(i / (n - i + 1)) + Math.log((1 - p) / p)
    sum += Math.exp(log)
  }
  return sum
}
