import { createHash } from 'node:crypto'

/**
 * JSON with sorted keys and no white space (in the manner of RFC 8785), so that equal values give equal bytes.
 * Dates become ISO text and bigints decimal text; undefined members are left out. What jsonb cannot store is made
 * storable first: NUL is dropped and a lone surrogate becomes U+FFFD.
 */
export function canonicalJson(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(storable(value))
  if (typeof value === 'bigint') return JSON.stringify(value.toString())
  if (value instanceof Date) return JSON.stringify(value.toISOString())
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .map(([key, member]) => [storable(key), member] as const)
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`).join(',')}}`
  }
  return JSON.stringify(value) ?? 'null'
}

/** The name of a plan: SHA-256 of its canonical JSON, in hex. Two plans with one hash do the same. */
export function planHash(plan: unknown): string {
  return createHash('sha256').update(canonicalJson(plan)).digest('hex')
}

const storable = (text: string): string => Buffer.from(text.replaceAll('\0', '')).toString()
