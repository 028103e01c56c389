import type { DataClass } from './item.ts'

/** One key of an object, or `[]` for an element of an array. */
type Step = string

const ELEMENT = '[]'

/** Where in a JSON document something stands, for each value without members. */
export function* leavesOf(value: unknown, path: readonly Step[] = []): Generator<readonly Step[]> {
  if (Array.isArray(value)) {
    for (const item of value) yield* leavesOf(item, [...path, ELEMENT])
  } else if (value !== null && typeof value === 'object') {
    for (const [key, inner] of Object.entries(value)) yield* leavesOf(inner, [...path, key])
  } else if (value !== null || path.length > 0) {
    yield path
  }
}

/** A classifier of paths, by patterns as `TableInventory.json` has them; undefined for a path that none of them meets. */
export function classifier(
  patterns: Readonly<Record<string, DataClass>>,
): (path: readonly Step[]) => DataClass | undefined {
  const parsed = Object.entries(patterns).map(([pattern, kind]) => ({ steps: stepsOf(pattern), kind }))
  // An exact one before one with stars, a longer one before a shorter.
  const stars = (steps: readonly Step[]) => steps.filter((step) => step.startsWith('*')).length
  parsed.sort((a, b) => stars(a.steps) - stars(b.steps) || b.steps.length - a.steps.length)
  return (path) => parsed.find(({ steps }) => meets(steps, path))?.kind
}

/** A path as it is written. Keys that are no words may be somebody's data, and are not shown. */
export function writtenPath(path: readonly Step[]): string {
  if (path.length === 0) return '$'
  return path
    .map((step, i) => {
      if (step === ELEMENT) return step
      const key = /^[A-Za-z_$][\w$-]{0,63}$/.test(step) && !/\d{4}/.test(step) ? step : '*'
      return i === 0 ? key : `.${key}`
    })
    .join('')
}

function stepsOf(pattern: string): Step[] {
  if (pattern === '$') return []
  return pattern
    .replaceAll(ELEMENT, `.${ELEMENT}`)
    .split('.')
    .filter((step) => step !== '')
}

function meets(pattern: readonly Step[], path: readonly Step[]): boolean {
  if (pattern.at(-1) === '**') {
    const before = pattern.slice(0, -1)
    return path.length >= before.length && meets(before, path.slice(0, before.length))
  }
  return (
    pattern.length === path.length &&
    pattern.every((step, i) => step === path[i] || (step === '*' && path[i] !== ELEMENT))
  )
}
