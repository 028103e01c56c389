import fc from 'fast-check'
import { expect, test } from 'vitest'
import { canonicalJson, planHash } from '../src/domain/audit/canonical-json.ts'
import { details, redactUrls, table, toJson } from '../src/render.ts'

test('a table aligns numbers right, words left, and shows what is absent as -', () => {
  const rows = [
    { name: 'billing', pending: 12_000, oldest: null },
    { name: 'مریم', pending: 7, oldest: new Date(0) },
  ]
  expect(table(rows, ['name', 'pending', 'oldest'])).toBe(
    ['NAME     PENDING  OLDEST', 'billing    12000  -', 'مریم           7  1970-01-01T00:00:00.000Z'].join(
      '\n',
    ),
  )
  expect(details({ id: 1, title: 'x', gone: null })).toBe('id     1\ntitle  x')
})

test('JSON keeps 64-bit integers whole', () => {
  expect(toJson({ seq: 9_007_199_254_740_993n }, 0)).toBe('{"seq":"9007199254740993"}')
})

test('users and passwords leave every URL', () => {
  expect(redactUrls('connect postgres://u:p%40x@h:5432/d or nats://t@n:4222')).toBe(
    'connect postgres://h:5432/d or nats://n:4222',
  )
})

test('equal values have one canonical JSON, whatever the order of their keys', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), (value) => {
      const turned = Object.fromEntries(Object.entries(value).reverse())
      expect(canonicalJson(turned)).toBe(canonicalJson(value))
      expect(planHash(turned)).toBe(planHash(value))
      // Stored and read again, it is the same.
      expect(canonicalJson(JSON.parse(canonicalJson(value)))).toBe(canonicalJson(value))
    }),
  )
})
