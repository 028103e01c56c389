import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type GateState, judgeTarget } from '../../src/domain/residency/judge.ts'
import { type Tenant, tenantSetHash } from '../../src/domain/residency/tenants.ts'
import { TabibError } from '../../src/errors.ts'

const NOW = Date.parse('2026-11-24T15:00:00Z')
const HOUR_S = 3_600
const unreadable = { read: false, error: new TabibError('TIMED_OUT', 'no answer') } as const

/** Everything that a decision may depend on, in as few words as possible. */
interface Case {
  regions: string[]
  /** Allowlist of each tenant; undefined: the database cannot be read. */
  tenants: string[][] | undefined
  /** Region tag of each member; undefined: Patroni cannot be read. */
  tags: unknown[] | undefined
  scope: 'right' | 'wrong'
  clusterId: '1' | '2'
  /** Undefined: the manifest is missing, unsigned or forged. */
  manifest:
    | {
        region: string
        keyRegion: string
        id: '1' | '2'
        tenants: 'same' | 'other'
        ageH: number
        kid: 'good' | 'leaked'
      }
    | undefined
}

function stateOf({ regions, tenants, tags, scope, clusterId, manifest }: Case): GateState {
  const all: Tenant[] = (tenants ?? []).map((allowed, i) => ({ id: `id-${i}`, slug: `tenant-${i}`, allowed }))
  return {
    target: 'dr',
    scope: 'right',
    regions,
    database: tenants
      ? {
          read: true,
          value: { tenants: all, systemIdentifier: '1', revokedKeys: ['leaked'], now: new Date(NOW) },
        }
      : unreadable,
    cluster: tags
      ? {
          read: true,
          value: {
            scope,
            systemIdentifier: clusterId,
            members: tags.map((region, i) => ({
              name: `n${i}`,
              role: 'replica',
              state: 'running',
              tags: region === undefined ? {} : { region },
            })),
          },
        }
      : unreadable,
    manifest: manifest
      ? {
          read: true,
          value: {
            label: 'b',
            systemIdentifier: manifest.id,
            region: manifest.region,
            keyRegion: manifest.keyRegion,
            tenantSetHash: manifest.tenants === 'same' ? tenantSetHash(all) : 'f'.repeat(64),
            kid: manifest.kid,
            iat: NOW / 1_000 - manifest.ageH * HOUR_S,
          },
        }
      : unreadable,
    nowMs: NOW,
    maxManifestAgeMs: 26 * HOUR_S * 1_000,
  }
}

/** Written from the text and not from the code: the one way in which a cluster may take over. */
function mayTakeOver({ regions, tenants, tags, scope, clusterId, manifest }: Case): boolean {
  if (!tenants || !tags || !manifest) return false
  if (tenants.length === 0 || tags.length === 0) return false
  const real = new Set(regions)
  const shared = regions.filter((region) => tenants.every((allowed) => new Set(allowed).has(region)))
  const places = [...tags, manifest.region, manifest.keyRegion]
  return (
    tenants.flat().every((region) => real.has(region)) &&
    places.every((place) => shared.some((region) => region === place)) &&
    scope === 'right' &&
    clusterId === '1' &&
    manifest.id === '1' &&
    manifest.tenants === 'same' &&
    manifest.kid !== 'leaked' &&
    manifest.ageH <= 26 &&
    manifest.ageH * 60 >= -5
  )
}

const agrees = (one: Case) => (judgeTarget(stateOf(one)).length === 0) === mayTakeOver(one)

const good: Case = {
  regions: ['af-kabul', 'af-herat'],
  tenants: [['af-herat', 'af-kabul'], ['af-herat']],
  tags: ['af-herat', 'af-herat'],
  scope: 'right',
  clusterId: '1',
  manifest: { region: 'af-herat', keyRegion: 'af-herat', id: '1', tenants: 'same', ageH: 3, kid: 'good' },
}

describe('a cluster', () => {
  test('whose members, backup and key are where every tenant allows may take over', () => {
    expect(judgeTarget(stateOf(good))).toEqual([])
  })

  const kept = good.manifest!
  test.each<[string, Partial<Case>, RegExp]>([
    ['with an untagged member', { tags: ['af-herat', undefined] }, /member n1 .*does not say which region/],
    ['with an empty tag', { tags: [''] }, /does not say which region/],
    ['with a tag that is no text', { tags: [true] }, /does not say which region/],
    ['in an unknown region', { tags: ['af-heart'] }, /"af-heart", and there is no such region/],
    ['that one tenant does not allow', { tags: ['af-kabul'] }, /af-kabul, which tenant-1 does not allow/],
    ['without members', { tags: [] }, /has no member/],
    ['that Patroni does not tell of', { tags: undefined }, /cannot be judged: no answer/],
    ['that is another', { scope: 'wrong' }, /"wrong", not "right"/],
    ['of another database', { clusterId: '2' }, /system identifiers differ/],
    ['whose tenants cannot be read', { tenants: undefined }, /the tenants: it cannot be judged/],
    ['without tenants', { tenants: [] }, /there is none/],
    [
      'with a tenant that allows no real region',
      { tenants: [['af-herat', 'mars']] },
      /"mars", and there is no such/,
    ],
    ['without a believed manifest', { manifest: undefined }, /manifest: it cannot be judged/],
    ['with a stale manifest', { manifest: { ...kept, ageH: 27 } }, /27.0 h old/],
    ['with a manifest from the future', { manifest: { ...kept, ageH: -1 } }, /-1.0 h old/],
    [
      'whose backup is elsewhere',
      { manifest: { ...kept, region: 'af-kabul' } },
      /backup b: .*tenant-1 does not allow/,
    ],
    [
      'whose key is elsewhere',
      { manifest: { ...kept, keyRegion: 'af-kabul' } },
      /key of backup b: .*tenant-1/,
    ],
    ['whose backup is of another database', { manifest: { ...kept, id: '2' } }, /system identifiers differ/],
    [
      'whose backup is of other tenants',
      { manifest: { ...kept, tenants: 'other' } },
      /another set of tenants/,
    ],
  ])('%s may not, and is told why', (_, change, why) => {
    const reasons = judgeTarget(stateOf({ ...good, ...change }))
    expect(reasons.map(({ object, message }) => `${object}: ${message}`).join('\n')).toMatch(why)
    expect(reasons.every(({ fix }) => fix !== null && fix !== '')).toBe(true)
  })
})

test.each([
  ['behind', -20, /27.0 h old/],
  ['ahead', 20, /47.0 h old/],
])('a database whose clock is %s makes no stale manifest fresh', (_, offH, why) => {
  const state = stateOf({ ...good, manifest: { ...good.manifest!, ageH: 27 } })
  if (state.database.read) state.database.value.now = new Date(NOW + offH * HOUR_S * 1_000)
  expect(judgeTarget(state).map(({ message }) => message)).toEqual([expect.stringMatching(why)])
})

test('0 wrong decisions over every state of two members, two tenants and three regions', () => {
  const TAGS = [undefined, 'a', 'b', 'x']
  const ALLOWED = [['a'], ['b'], ['a', 'b'], ['a', 'x'], []]
  const PLACES = ['a', 'b', 'x']
  let [all, allowed, wrong] = [0, 0, 0]
  for (const tags of [undefined, [], ...TAGS.flatMap((one) => [[one], ...TAGS.map((two) => [one, two])])])
    for (const tenants of [
      undefined,
      [],
      ...ALLOWED.flatMap((one) => [[one], ...ALLOWED.map((two) => [one, two])]),
    ])
      for (const manifest of [
        undefined,
        ...PLACES.flatMap((region) =>
          PLACES.flatMap((keyRegion) =>
            (['1', '2'] as const).flatMap((id) =>
              (['same', 'other'] as const).flatMap((set) =>
                (['good', 'leaked'] as const).flatMap((kid) =>
                  [-1, 3, 30].map((ageH) => ({ region, keyRegion, id, tenants: set, ageH, kid })),
                ),
              ),
            ),
          ),
        ),
      ])
        for (const scope of ['right', 'wrong'] as const) {
          const one: Case = { regions: ['a', 'b'], tenants, tags, scope, clusterId: '1', manifest }
          all += 1
          if (mayTakeOver(one)) allowed += 1
          if (!agrees(one)) wrong += 1
        }
  expect({ wrong, someAllowed: allowed > 0, all }).toEqual({ wrong: 0, someAllowed: true, all: 305_536 })
})

test('0 wrong decisions over any regions, tenants, tags and manifests', () => {
  const region = fc.constantFrom('a', 'b', 'c', 'd', 'x', '', 'constructor')
  const cases = fc.record<Case>({
    regions: fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 1 }),
    tenants: fc.option(fc.array(fc.uniqueArray(region), { maxLength: 5 }), { nil: undefined }),
    tags: fc.option(
      fc.array(fc.oneof(region, fc.constantFrom(undefined, null, 1, true, ['a'], {})), { maxLength: 4 }),
      { nil: undefined },
    ),
    scope: fc.constantFrom('right', 'right', 'wrong'),
    clusterId: fc.constantFrom('1', '1', '2'),
    manifest: fc.option(
      fc.record({
        region,
        keyRegion: region,
        id: fc.constantFrom('1', '1', '2'),
        tenants: fc.constantFrom('same', 'same', 'other'),
        kid: fc.constantFrom('good', 'good', 'leaked'),
        ageH: fc.double({ min: -2, max: 60, noNaN: true }),
      }),
      { nil: undefined },
    ),
  })
  // Chance alone seldom meets a state that may pass, so half of them begin with one.
  const near = fc
    .tuple(cases, fc.subarray(['tenants', 'tags', 'scope', 'clusterId', 'manifest'] as const))
    .map(([change, keys]) => ({ ...good, ...Object.fromEntries(keys.map((key) => [key, change[key]])) }))
  fc.assert(fc.property(fc.oneof(cases, near), agrees), { numRuns: 5_000 })
})

test('a decision names what is unread, whatever else is read', () => {
  const reasons = judgeTarget(stateOf({ ...good, tags: undefined, manifest: undefined, tenants: undefined }))
  expect(reasons.map(({ id }) => id)).toEqual([
    'residency/database-unread',
    'residency/cluster-unread',
    'residency/manifest-unread',
  ])
})
