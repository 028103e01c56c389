import { base64url, SignJWT } from 'jose'
import { afterAll, expect, inject, test, vi } from 'vitest'
import { openNats } from '../../src/adapters/nats/client.ts'
import { announceKeys } from '../../src/domain/keys/announce.ts'
import { type KeySet, publishedKeys } from '../../src/domain/keys/key-set.ts'
import { revokeKey } from '../../src/domain/keys/revoke.ts'
import { type KeySystems, rotateKeys } from '../../src/domain/keys/rotate.ts'
import { signToken } from '../../src/domain/keys/sign.ts'
import { openVerifier, type VerifierOptions } from '../../src/domain/keys/verifier.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'

const database = useDatabase()
const keys = useKeyStore()
const nats = openNats({ url: inject('natsUrl') })
afterAll(() => nats.close())

const policy = { overlapS: 1_200, cacheAgeS: 600, skewS: 30, tokenLifetimeS: 300, allAttest: true }
const systems = (): KeySystems => ({ db: database.db, nats, keyStore: async () => keys.store })
const typ = 'at+jwt'
let purposes = 0

/** A purpose of a test's own, whose key set can be made unreadable; counts its loads. */
async function issuer() {
  purposes += 1
  const purpose = `verified-${purposes}`
  const state = { loads: 0, away: false, alter: (keySet: KeySet) => keySet }
  const rotate = () => rotateKeys(systems(), { purpose, algorithm: 'ES256', policy, by: 'test' })
  const { kid } = await rotate()
  return {
    purpose,
    kid,
    state,
    rotate,
    sign: async (claims: Record<string, unknown> = {}, lifetimeS = 60) =>
      (await signToken({ db: database.db, keyStore: keys.store }, { purpose, typ, lifetimeS, claims })).token,
    revoke: (kid: string) =>
      revokeKey(systems(), { kid, reason: 'leaked', by: 'test', runId: crypto.randomUUID() }),
    // It loads once by itself; every further load is asked for.
    verifier: (over: Partial<VerifierOptions> = {}) =>
      openVerifier({
        purpose,
        load: async () => {
          state.loads += 1
          if (state.away) throw new Error('away')
          return state.alter(await publishedKeys({ db: database.service }, { purpose }))
        },
        reloadEveryMs: 3_600_000,
        ...over,
      }),
  }
}

const invalid = (reason: string) => ({ code: 'TOKEN_INVALID', context: { reason } })

test('a token holds for its kind, issuer and audience alone, and until it expires', async () => {
  const { sign, verifier: open, kid } = await issuer()
  await using verifier = await open()
  const token = await sign({ sub: 'a', iss: 'tabib', aud: 'billing' })
  const expected = { typ, issuer: 'tabib', audience: 'billing' }
  expect(await verifier.verify(token, expected)).toMatchObject({ kid, claims: { sub: 'a' } })
  for (const other of [{ typ: 'JWT' }, { issuer: 'other' }, { audience: 'virtual-care' }]) {
    await expect(verifier.verify(token, { ...expected, ...other })).rejects.toMatchObject(invalid('claims'))
  }
  const expired = verifier.verify(await sign({}, 0), { typ })
  await expect(expired).rejects.toMatchObject({ code: 'TOKEN_EXPIRED' })
})

test('what is forged is refused: another signature, another algorithm, no algorithm, a probe, no token at all', async () => {
  const { sign, verifier: open, kid, purpose } = await issuer()
  await using verifier = await open()
  const [header, payload] = (await sign()).split('.')
  const { keys: published, probes } = await publishedKeys(database, { purpose })
  const secret = new TextEncoder().encode(JSON.stringify(published[0]))
  const confused = await new SignJWT({})
    .setProtectedHeader({ alg: 'HS256', kid, typ })
    .setExpirationTime('1m')
    .sign(secret)
  const unsigned = `${base64url.encode(JSON.stringify({ alg: 'none', kid, typ }))}.${payload}.`
  for (const forged of [`${header}.${payload}.${'A'.repeat(86)}`, confused, unsigned, probes[0]!]) {
    await expect(verifier.verify(forged, { typ })).rejects.toMatchObject({ code: 'TOKEN_INVALID' })
  }
  for (const nonsense of ['', 'a.b.c', `${base64url.encode('{"kid":7}')}.e30.`, 'x'.repeat(100_000)]) {
    await expect(verifier.verify(nonsense, { typ })).rejects.toMatchObject(invalid('malformed'))
  }
})

test('a key that signed a moment after the last load is found: no cool-down refuses it', async () => {
  const { sign, rotate, verifier: open, state } = await issuer()
  await using verifier = await open()
  await rotate()
  const tokens = await Promise.all(Array.from({ length: 50 }, () => sign()))
  const before = state.loads
  await Promise.all(tokens.map((token) => verifier.verify(token, { typ })))
  expect(state.loads).toBe(before + 1)
})

test('a flood of tokens with keys that do not exist costs the issuer few loads, and good tokens pass', async () => {
  const { sign, verifier: open, state } = await issuer()
  await using verifier = await open()
  const good = await sign()
  const forged = Array.from({ length: 500 }, (_, i) => {
    const header = { alg: 'ES256', typ, kid: `forged-${i}` }
    return `${base64url.encode(JSON.stringify(header))}.${good.split('.')[1]}.${good.split('.')[2]}`
  })
  const before = state.loads
  const refused = forged.map((token) =>
    expect(verifier.verify(token, { typ })).rejects.toMatchObject(invalid('unknown-key')),
  )
  await verifier.verify(good, { typ })
  await Promise.all(refused)
  expect(state.loads - before).toBeLessThanOrEqual(2)
})

test('while no key set can be loaded the last good keys are used, up to a limit; whoever cannot tell says so', async () => {
  const { sign, rotate, verifier: open, state } = await issuer()
  await using verifier = await open()
  await using strict = await open({ hardLimitMs: 1 })
  const known = await sign()
  await rotate()
  const unknown = await sign()
  state.away = true
  await expect(verifier.verify(unknown, { typ })).rejects.toMatchObject({ code: 'KEYS_UNAVAILABLE' })
  await verifier.verify(known, { typ })
  // Failed loads are repeated by themselves, not by each token.
  const before = state.loads
  const asked = Array.from({ length: 100 }, () => verifier.verify(unknown, { typ }).catch(() => {}))
  await Promise.all(asked)
  expect(state.loads - before).toBeLessThanOrEqual(2)
  await expect(strict.verify(known, { typ })).rejects.toMatchObject({ code: 'KEYS_UNAVAILABLE' })
  expect(strict.lacks()).toContain('the key set is too old')

  state.away = false
  await vi.waitFor(() => verifier.verify(unknown, { typ }), { timeout: 20_000 })
})

test('a revoked key is refused at its announcement, before and although no key set can be loaded', async () => {
  const { sign, revoke, kid, verifier: open, state } = await issuer()
  await using verifier = await open({ nats })
  const token = await sign()
  await verifier.verify(token, { typ })
  state.away = true
  await revoke(kid)
  await vi.waitFor(() => expect(verifier.verify(token, { typ })).rejects.toMatchObject(invalid('revoked')), {
    timeout: 20_000,
  })
  state.away = false
})

test('a revoked key is refused with its next load when NATS says nothing', async () => {
  const { sign, revoke, kid, verifier: open } = await issuer()
  await using verifier = await open({ reloadEveryMs: 50 })
  const token = await sign()
  await revoke(kid)
  await vi.waitFor(() => expect(verifier.verify(token, { typ })).rejects.toMatchObject(invalid('revoked')), {
    timeout: 20_000,
  })
})

test('a database that was restored to before a revocation un-revokes nothing for a verifier that heard of it', async () => {
  const { sign, revoke, kid, verifier: open, state } = await issuer()
  await using verifier = await open({ reloadEveryMs: 20 })
  const token = await sign()
  const before = await publishedKeys(database, { purpose: verifier.purpose })
  await revoke(kid)
  await vi.waitFor(() => expect(verifier.verify(token, { typ })).rejects.toMatchObject(invalid('revoked')), {
    timeout: 20_000,
  })
  state.alter = () => before
  const loads = state.loads
  await vi.waitFor(() => expect(state.loads).toBeGreaterThan(loads + 1), { timeout: 20_000 })
  await expect(verifier.verify(token, { typ })).rejects.toMatchObject(invalid('revoked'))
})

test('an announcement that is not true refuses nothing for longer than a load takes', async () => {
  const { sign, kid, purpose, verifier: open, state } = await issuer()
  await using verifier = await open({ nats })
  const token = await sign()
  const before = state.loads
  await announceKeys({ nats }, { purpose, revoked: [kid] })
  await vi.waitFor(() => expect(state.loads).toBeGreaterThan(before), { timeout: 20_000 })
  await vi.waitFor(() => verifier.verify(token, { typ }), { timeout: 20_000 })
  // What is no key's id could only be meant to be counted as one.
  for (const said of ['nonsense', '{"revoked":["no key"]}'])
    await nats.notify(`tabib.keys.${purpose}`, Buffer.from(said))
  await nats.ping()
  await verifier.verify(token, { typ })
  const named = `${base64url.encode('{"alg":"ES256","kid":"no key"}')}.e30.AA`
  await expect(verifier.verify(named, { typ })).rejects.toMatchObject(invalid('unknown-key'))
})

test('only keys that were proved are held and attested: a wrong public half stops the rotation', async () => {
  const { rotate, verifier: open, state, purpose, kid: first } = await issuer()
  await using verifier = await open({ attest: { db: database.service, instance: 'a' } })
  expect(verifier.lacks()).toEqual([])
  const foreign = await publishedKeys(database, await issuer())
  state.alter = (keySet) => ({
    ...keySet,
    keys: keySet.keys.map((key) => (key.kid === first ? key : { ...foreign.keys[0]!, kid: key.kid })),
  })
  const { kid } = await rotate()
  await using late = await open({ attest: { db: database.service, instance: 'b' } })
  expect(late.lacks().join()).toMatch(/could not be proved.*a newer key set is published/)
  const { waits } = await rotate()
  expect(waits).toContain('b (live) to attest the key set')
  // Who was ready stays so: what it holds is all that signs.
  expect(verifier.lacks()).toEqual([])
  expect((await publishedKeys(database, { purpose })).keys.map((key) => key.kid)).toContain(kid)
})

test('a verifier says how many tokens it refused, and of which keys, but keeps no names that callers made up', async () => {
  const { sign, rotate, verifier: open, state, purpose, kid } = await issuer()
  {
    await using verifier = await open({ attest: { db: database.service, instance: 'a' } })
    await verifier.verify(await sign(), { typ })
    state.away = true
    await rotate()
    // As if it had attested what it cannot load.
    await database.service.query('update tabib.verifier set jwks_hash = tabib.jwks_hash(purpose)')
    await rotate()
    await verifier.verify(await sign(), { typ }).catch(() => {})
    await verifier.verify('nonsense', { typ }).catch(() => {})
    const header = base64url.encode(JSON.stringify({ alg: 'ES256', kid: 'Ahmad Karimi' }))
    await verifier.verify(`${header}.e30.AA`, { typ }).catch(() => {})
  }
  const [row] = await database.db.query(
    'select accepted::int, refused, unknown_keys, stopped_at is not null as stopped from tabib.verifier where purpose = $1',
    [purpose],
  )
  expect(row).toMatchObject({ accepted: 1, refused: { malformed: 1, unavailable: 2 }, stopped: true })
  expect(Object.keys(row!.unknown_keys as object)).not.toContain(kid)
  expect(Object.keys(row!.unknown_keys as object)).toHaveLength(1)
})
