import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, inject, test } from 'vitest'
import type { KeyStore } from '../../src/adapters/keystore/client.ts'
import { openNats } from '../../src/adapters/nats/client.ts'
import type { Database } from '../../src/adapters/postgres/client.ts'
import { attestKeys, listVerifiers, type VerifierReport } from '../../src/domain/keys/attest.ts'
import { signJws } from '../../src/domain/keys/jws.ts'
import { jwksHash, publishedKeys } from '../../src/domain/keys/key-set.ts'
import { type KeyPolicy, listKeys } from '../../src/domain/keys/phase.ts'
import { refusedTokens } from '../../src/domain/keys/refused-tokens.ts'
import { compareRevocations, REVOCATION_TYPE } from '../../src/domain/keys/remember.ts'
import { planRevocation, recallRevocations, revokeKey } from '../../src/domain/keys/revoke.ts'
import { planRollback, rollbackRotation } from '../../src/domain/keys/rollback.ts'
import { advanceKeys, type KeySystems, planRotation, rotateKeys } from '../../src/domain/keys/rotate.ts'
import { activeKey, signToken } from '../../src/domain/keys/sign.ts'
import { keysStatus } from '../../src/domain/keys/status.ts'
import { TabibError } from '../../src/errors.ts'
import { packageRoot } from '../../src/package-root.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'

const database = useDatabase()
const keys = useKeyStore()
const nats = openNats({ url: inject('natsUrl') })
afterAll(() => nats.close())

const systems = (): KeySystems => ({ db: database.db, nats, keyStore: async () => keys.store })
const policy: KeyPolicy = {
  overlapS: 1_200,
  cacheAgeS: 600,
  skewS: 30,
  tokenLifetimeS: 300,
  allAttest: true,
}
const by = 'test'
let purposes = 0
const newPurpose = () => {
  purposes += 1
  return `purpose-${purposes}`
}
const rotate = (purpose: string, over: Partial<KeyPolicy> = {}) =>
  rotateKeys(systems(), { purpose, algorithm: 'ES256', policy: { ...policy, ...over }, by })
const advance = (purpose: string) => advanceKeys(systems(), { purpose, by })
const phases = async (purpose: string) =>
  (await listKeys(database, { purpose, ended: true })).map(({ phase }) => phase)
/** As if everything had happened so much earlier. */
const age = (purpose: string, seconds: number) =>
  database.owner.query(
    `update tabib.signing_key set since = since - make_interval(secs => $2),
       published_at = published_at - make_interval(secs => $2) where purpose = $1`,
    [purpose, seconds],
  )
const attest = (purpose: string, instance: string, hash: string) =>
  attestKeys(database.service, {
    purpose,
    instance,
    hash,
    run: crypto.randomUUID(),
    accepted: 0,
    refused: {},
    unknownKeys: {},
  })
const currentHash = async (purpose: string) =>
  jwksHash((await publishedKeys(database, { purpose })).keys.map(({ kid }) => kid))

test('the first key of a purpose signs at once, in every algorithm', async () => {
  for (const algorithm of ['ES256', 'EdDSA', 'RS256'] as const) {
    const purpose = newPurpose()
    const { kid, moved, waits } = await rotateKeys(systems(), { purpose, algorithm, policy, by })
    expect(moved.map(({ phase }) => phase)).toEqual(['publish', 'attest', 'activate'])
    expect(waits).toEqual([])
    expect((await activeKey(database, { purpose })).key).toMatchObject({ algorithm, publicJwk: { kid } })
  }
})

test('a key whose id a command line would take for a flag is destroyed and another made', async () => {
  const made: string[] = []
  const keyStore: KeyStore = {
    ...keys.store,
    async generate(algorithm) {
      const key = await keys.store.generate(algorithm)
      made.push(key.ref)
      return made.length > 1 ? key : { ...key, publicJwk: { ...key.publicJwk, kid: `-${key.ref.slice(1)}` } }
    },
  }
  const store = { ...systems(), keyStore: async () => keyStore }
  const { kid } = await rotateKeys(store, { purpose: newPurpose(), algorithm: 'ES256', policy, by })
  expect(made.length).toBeGreaterThan(1)
  expect(kid).toBe(made.at(-1))
  await expect(keys.store.find(made[0]!)).rejects.toMatchObject({ code: 'NOT_FOUND' })
})

test('a key set holds public members alone, and a service may read it', async () => {
  const purpose = newPurpose()
  await rotate(purpose)
  const [key] = (await publishedKeys({ db: database.service }, { purpose })).keys
  expect(Object.keys(key!).sort()).toEqual(['alg', 'crv', 'kid', 'kty', 'use', 'x', 'y'])
  const whole = database.service.query('select ref from tabib.signing_key')
  await expect(whole).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
})

test('an overlap that a rotation cannot cover is refused, and so is a token that would outlive its key', async () => {
  const purpose = newPurpose()
  const plan = (over: Partial<KeyPolicy>) =>
    planRotation(database, { purpose, algorithm: 'ES256', policy: { ...policy, ...over } })
  // jose's remote key set keeps a set for just as long as the least overlap: no margin at all.
  await expect(plan({ overlapS: 600, tokenLifetimeS: 60 })).rejects.toMatchObject({
    code: 'OVERLAP_TOO_SHORT',
  })
  await expect(plan({ overlapS: 929 })).rejects.toThrow('at least 930 s are needed')
  await expect(plan({ overlapS: 599, cacheAgeS: 1, skewS: 0, tokenLifetimeS: 1 })).rejects.toThrow('600 s')
  await plan({ overlapS: 930 })
  await rotate(purpose)
  const sign = (lifetimeS: number) =>
    signToken({ db: database.db, keyStore: keys.store }, { purpose, typ: 'JWT', lifetimeS, claims: {} })
  await expect(sign(301)).rejects.toMatchObject({ code: 'OVERLAP_TOO_SHORT' })
  await sign(300)
})

test('a rotation waits for every live verifier, and one that joins in its midst is waited for too', async () => {
  const purpose = newPurpose()
  const { kid: first } = await rotate(purpose)
  const old = await currentHash(purpose)
  await attest(purpose, 'a', old)
  const { kid: second, waits } = await rotate(purpose)
  expect(waits).toEqual(['a (live) to attest the key set'])
  expect(await attest(purpose, 'late', old)).toBe(await currentHash(purpose))
  await attest(purpose, 'a', await currentHash(purpose))
  expect((await advance(purpose)).waits).toEqual(['late (live) to attest the key set'])
  await attest(purpose, 'late', await currentHash(purpose))
  expect((await advance(purpose)).moved).toEqual([{ kid: second, phase: 'activate' }])
  expect((await activeKey(database, { purpose })).key.publicJwk.kid).toBe(second)

  // The old key is published until its last token has expired and the overlap is over.
  const published = async () => (await publishedKeys(database, { purpose })).keys.map(({ kid }) => kid).sort()
  expect(await published()).toEqual([first, second].sort())
  await age(purpose, 1_100)
  expect((await advance(purpose)).moved).toEqual([])
  await age(purpose, 100)
  expect((await advance(purpose)).moved).toEqual([{ kid: first, phase: 'retire' }])
  expect(await published()).toEqual([second])
  await expect(keys.store.find(first)).rejects.toMatchObject({ code: 'NOT_FOUND' })
})

test('a service attests with the statement that docs/keys.md gives', async () => {
  const purpose = newPurpose()
  await rotate(purpose)
  const [, statement] =
    /```sql\n([^`]*)```/.exec(readFileSync(join(packageRoot(), 'docs/keys.md'), 'utf8')) ?? []
  for (const hash of ['of no set', await currentHash(purpose)])
    await database.service.query(statement!, [purpose, 'a', hash])
  expect(await listVerifiers(database, { purpose })).toMatchObject([{ instance: 'a', holds: 'current' }])
})

test('a silent verifier, and those that cannot attest, are waited for until their caches are too old', async () => {
  const purpose = newPurpose()
  await rotate(purpose)
  await attest(purpose, 'cut off', await currentHash(purpose))
  await rotate(purpose, { allAttest: false })
  await database.service.query(
    `update tabib.verifier set attested_at = attested_at - interval '1 min' where purpose = $1`,
    [purpose],
  )
  await age(purpose, 620)
  expect((await advance(purpose)).waits).toEqual([
    'cut off (silent) to attest the key set',
    expect.stringMatching(/^\d+ s for caches of verifiers that do not attest$/),
  ])
  await age(purpose, 20)
  expect((await advance(purpose)).moved.map(({ phase }) => phase)).toEqual(['activate'])
})

test('a rotation that is killed after any statement is one rotation once it is run again', async () => {
  const purpose = newPurpose()
  const { kid: first } = await rotate(purpose)
  const plan = await planRotation(database, { purpose, algorithm: 'ES256', policy })
  const killed = new Error('killed')
  let finished = false
  for (let allowed = 1; !finished; allowed += 1) {
    let left = allowed
    const dying = <T>(result: T): T => {
      left -= 1
      if (left < 0) throw killed
      return result
    }
    const db: Database = {
      ...database.db,
      query: async (...sent) => dying(await database.db.query(...sent)) as never,
      transaction: async (work) => dying(await database.db.transaction(work)),
    }
    const run = { ...systems(), db }
    // Each run is killed one statement later than the one before.
    finished = await rotateKeys(run, { ...plan, by }).then(
      () => true,
      (error) => {
        expect(error).toBe(killed)
        return false
      },
    )
    const all = await listKeys(database, { purpose })
    expect(all.length).toBeLessThanOrEqual(2)
    expect(all.filter(({ phase }) => phase === 'activate')).toHaveLength(1)
  }
  expect(await phases(purpose)).toEqual(['drain', 'activate'])
  expect((await listKeys(database, { purpose }))[0]?.kid).toBe(first)
})

test('rotations started at one moment make one key', async () => {
  const purpose = newPurpose()
  for (const expected of [['activate'], ['drain', 'activate']]) {
    const plan = await planRotation(database, { purpose, algorithm: 'ES256', policy })
    const made = await Promise.all(Array.from({ length: 4 }, () => rotateKeys(systems(), { ...plan, by })))
    expect(new Set(made.map(({ kid }) => kid)).size).toBe(1)
    expect(await phases(purpose)).toEqual(expected)
  }
})

test('a rotation is rolled back from every phase before the old key is retired, and only once', async () => {
  const purpose = newPurpose()
  const roll = async () => {
    const plan = await planRollback(database, { purpose })
    await rollbackRotation(systems(), { plan, by })
    return plan
  }
  const { kid: first } = await rotate(purpose)
  await expect(roll()).rejects.toMatchObject({ code: 'NOT_NEEDED' })
  await attest(purpose, 'a', await currentHash(purpose))
  for (const phase of ['prepare', 'publish', 'attest']) {
    const { kid } = await rotate(purpose)
    await database.db.query('update tabib.signing_key set phase = $2 where kid = $1', [kid, phase])
    expect(await roll()).toMatchObject({ kind: 'abandon', from: kid, to: first })
    await expect(roll()).rejects.toMatchObject({ code: 'NOT_NEEDED' })
  }
  const { kid: second } = await rotate(purpose)
  await attest(purpose, 'a', await currentHash(purpose))
  await advance(purpose)
  expect(await roll()).toMatchObject({ kind: 'return', from: second, to: first })
  // What the second key signed meanwhile is good until it expires.
  expect((await publishedKeys(database, { purpose })).keys).toHaveLength(2)
  expect((await activeKey(database, { purpose })).key.publicJwk.kid).toBe(first)
  await expect(roll()).rejects.toMatchObject({ code: 'NOT_NEEDED' })
})

test('a rollback that was planned before another rotation is refused, and changes nothing', async () => {
  const purpose = newPurpose()
  await rotate(purpose)
  await rotate(purpose)
  const plan = await planRollback(database, { purpose })
  await rotate(purpose)
  const before = await listKeys(database, { purpose })
  await expect(rollbackRotation(systems(), { plan, by })).rejects.toMatchObject({ code: 'PLAN_STALE' })
  const signing = (keys: typeof before) => keys.map(({ kid, phase, barred }) => ({ kid, phase, barred }))
  expect(signing(await listKeys(database, { purpose }))).toEqual(signing(before))
})

test('a tainted key is replaced in order and never signs again', async () => {
  const purpose = newPurpose()
  const { kid: first } = await rotate(purpose)
  await rotateKeys(systems(), { purpose, algorithm: 'ES256', policy, by, taint: true })
  expect((await publishedKeys(database, { purpose })).keys.map(({ kid }) => kid)).toContain(first)
  await expect(planRollback(database, { purpose })).rejects.toThrow('no former key may sign again')
})

test('a revoked key is on the denylist with its successor signing, in one transaction; twice is once', async () => {
  const purpose = newPurpose()
  const { kid } = await rotate(purpose)
  const plan = await planRevocation(database, { kid })
  expect(plan).toEqual({ kid, purpose, phase: 'activate', successor: 'new' })
  const revoke = () =>
    revokeKey(systems(), { kid, reason: 'leaked', by, runId: '0d8f0a52-9f3a-4f0e-8a55-3f6f9a3d9d10' })
  const { successor, ...rest } = await revoke()
  expect(rest).toEqual({ kid, purpose, revoked: true, announced: true, undestroyed: [] })
  expect((await activeKey(database, { purpose })).key.publicJwk.kid).toBe(successor)
  expect(await publishedKeys(database, { purpose })).toMatchObject({
    keys: [{ kid: successor }],
    revoked: [kid],
  })
  expect(await revoke()).toMatchObject({ revoked: false, successor })
  await expect(keys.store.find(kid)).rejects.toMatchObject({ code: 'NOT_FOUND' })
  const rows = await database.db.query('select reason from tabib.key_revocation where kid = $1', [kid])
  expect(rows).toEqual([{ reason: 'leaked' }])
})

test('a leaked key is revoked even while the key store is away', async () => {
  const purpose = newPurpose()
  const { kid } = await rotate(purpose)
  const away = async () => {
    throw new TabibError('KEY_STORE_UNREACHABLE', 'away')
  }
  const asked = { kid, reason: 'leaked', by, runId: '0d8f0a52-9f3a-4f0e-8a55-3f6f9a3d9d10' }
  expect(await revokeKey({ ...systems(), keyStore: away }, asked)).toMatchObject({
    revoked: true,
    successor: null,
  })
  await expect(activeKey(database, { purpose })).rejects.toMatchObject({ code: 'NOT_FOUND' })
  await rotate(purpose)
  await activeKey(database, { purpose })
})

test('a leaked key is revoked even while the key store hangs', async () => {
  const purpose = newPurpose()
  const { kid } = await rotate(purpose)
  const asked = { kid, reason: 'leaked', by, runId: crypto.randomUUID() }
  const hanging = { ...systems(), keyStore: () => new Promise<never>(() => {}) }
  expect(await revokeKey(hanging, asked)).toMatchObject({ revoked: true, successor: null })
  expect(await publishedKeys(database, { purpose })).toEqual({ keys: [], revoked: [kid], probes: [] })
})

test('a key is revoked by two at once: one successor, and both name it', async () => {
  const purpose = newPurpose()
  const { kid } = await rotate(purpose)
  const revoke = () => revokeKey(systems(), { kid, reason: 'leaked', by, runId: crypto.randomUUID() })
  let first: ReturnType<typeof revoke> | undefined
  // The second has looked the key up before the first revokes it.
  const db: Database = {
    ...database.db,
    query: async (...sent) => {
      const rows = await database.db.query(...sent)
      first ??= revoke()
      await first
      return rows as never
    },
  }
  const second = await revokeKey(
    { ...systems(), db },
    { kid, reason: 'leaked', by, runId: crypto.randomUUID() },
  )
  expect(second).toMatchObject({ revoked: false, successor: (await first)?.successor })
  expect(await phases(purpose)).toEqual(['revoked', 'activate'])
})

/** As a restore to before a revocation leaves the database. */
const restoreBefore = async (kid: string, successor: string) => {
  await database.owner.query('delete from tabib.key_revocation where kid = $1', [kid])
  await database.owner.query(`update tabib.signing_key set phase = 'retire' where kid = $1`, [successor])
  await database.owner.query(`update tabib.signing_key set phase = 'activate' where kid = $1`, [kid])
}

test('a restore to before a revocation does not un-revoke the key, and status says so', async () => {
  const purpose = newPurpose()
  const { kid } = await rotate(purpose)
  const asked = { reason: 'leaked', by, runId: crypto.randomUUID() }
  const { successor } = await revokeKey(systems(), { kid, ...asked })
  expect(await recallRevocations(systems())).toBe(0)
  await restoreBefore(kid, successor!)

  const { unrevoked } = await compareRevocations(systems())
  expect(unrevoked).toEqual([{ kid, purpose }])
  const status = await keysStatus(database, { purpose, maxAgeS: 1e6, unrevoked })
  expect(status).toMatchObject([
    { problems: [expect.stringContaining(`${kid} was revoked, and this database`)] },
  ])
  expect(await recallRevocations(systems())).toBe(1)
  expect(await publishedKeys(database, { purpose })).toMatchObject({ revoked: [kid] })
  const [row] = await database.db.query('select reason from tabib.key_revocation where kid = $1', [kid])
  expect(row).toEqual({ reason: 'revoked before; the database was restored to a time before that' })
  expect(await recallRevocations(systems())).toBe(0)
})

test('a revocation that NATS did not hear of is remembered later, and nobody without the key can say one', async () => {
  const purpose = newPurpose()
  const { kid } = await rotate(purpose)
  const asked = { reason: 'leaked', by, runId: crypto.randomUUID() }
  const away = async () => {
    throw new TabibError('NATS_UNREACHABLE', 'away')
  }
  const deaf = { ...systems(), nats: { ...nats, notify: away, ping: away, store: away } }
  const { successor, announced } = await revokeKey(deaf, { kid, ...asked })
  expect(announced).toBe(false)
  await recallRevocations(systems())
  // Who may publish cannot make it forgotten.
  const payload = Buffer.from('nonsense')
  await nats.store({ subject: `tabib.revoked.${kid}`, messageId: 'x', headers: new Map(), payload })
  await restoreBefore(kid, successor!)
  expect(await recallRevocations(systems())).toBe(1)

  const { kid: target } = await rotate(newPurpose())
  const { key: other } = await activeKey(database, { purpose })
  const forged = await signJws(
    { keyStore: keys.store },
    { key: other, typ: REVOCATION_TYPE, payload: { kid: target } },
  )
  for (const [i, text] of [forged, 'nonsense'].entries()) {
    const payload = Buffer.from(text)
    await nats.store({
      subject: `tabib.revoked.${target}`,
      messageId: `${target}${i}`,
      headers: new Map(),
      payload,
    })
    expect(await recallRevocations(systems())).toBe(0)
  }
})

test('a burst of refusals is seen until two minutes after, whatever was reported since', async () => {
  const purpose = newPurpose()
  const { kid } = await rotate(purpose)
  const run = crypto.randomUUID()
  const said = (over: Partial<VerifierReport>) =>
    attestKeys(database.service, {
      ...{ purpose, instance: 'a', hash: 'of no set', run, accepted: 0, refused: {}, unknownKeys: {} },
      ...over,
    })
  const mine = async () => (await refusedTokens(database)).refused.filter((one) => one.purpose === purpose)
  await said({ accepted: 100, unknownKeys: { [kid]: 30, forged: 500 } })
  // Told twice, and nothing new since: counted once.
  for (const _ of [1, 2, 3]) await said({ accepted: 170, unknownKeys: { [kid]: 30, forged: 500 } })
  expect(await mine()).toEqual([{ purpose, instance: 'a', kid, count: 30 }])
  // Started again, it counts from zero.
  await said({ run: crypto.randomUUID(), accepted: 5, unknownKeys: { [kid]: 2 } })
  expect(await mine()).toMatchObject([{ count: 32 }])
  const accepted = await database.db.query<{ n: number }>(
    `select sum(n)::int as n from tabib.verifier_count where purpose = $1 and kid = ''`,
    [purpose],
  )
  expect(accepted).toEqual([{ n: 175 }])
  await database.owner.query(`update tabib.verifier_count set minute = minute - interval '2 min'`)
  expect(await mine()).toEqual([])
})
