/** One measured figure (docs/cli.md, rule 12). */
export interface Measurement {
  bench: string
  case: string
  value: number
  unit: string
  /** What the ratio is against: another case's name, or a limit. */
  against: string | null
  ratio: number | null
  /** What the ratio, or the value where there is none, must reach, e.g. `<= 2.5`. */
  target: string | null
  ok: boolean | null
}

/** Whether a figure reaches a target of the form `<= 2.5` or `>= 0.75`. */
export function reaches(figure: number, target: string): boolean {
  const [operator, bound] = target.split(' ')
  return operator === '<=' ? figure <= Number(bound) : figure >= Number(bound)
}

/** The middle value; of an even count the upper of the two. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

/** The value below which the share `q` of the sorted values lies; NaN of none. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}
