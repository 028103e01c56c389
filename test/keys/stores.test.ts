import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, inject, test } from 'vitest'
import type { KeyStore } from '../../src/adapters/keystore/client.ts'
import { openNats } from '../../src/adapters/nats/client.ts'
import { serve } from '../../src/api/server.ts'
import { openSessionApi } from '../../src/api/sessions.ts'
import { createApp, createLogger } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { listKeys } from '../../src/domain/keys/phase.ts'
import { revokeKey } from '../../src/domain/keys/revoke.ts'
import { type KeySystems, rotateKeys } from '../../src/domain/keys/rotate.ts'
import { rotateDueKeys } from '../../src/domain/keys/rotate-due.ts'
import { signToken } from '../../src/domain/keys/sign.ts'
import { keysStatus } from '../../src/domain/keys/status.ts'
import { makeSoftHsm } from '../../src/sandbox/servers/softhsm.ts'
import { makeVisit } from '../../src/sandbox/visit.ts'
import { startWorkers, thisInstance } from '../../src/worker.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'

const database = useDatabase()
const home = useKeyStore()
const foreign = useKeyStore()
const nats = openNats({ url: inject('natsUrl') })
afterAll(() => nats.close())

const policy = { overlapS: 1_200, cacheAgeS: 600, skewS: 30, tokenLifetimeS: 300, allAttest: true }
const at = (keyStore: KeyStore): KeySystems => ({ db: database.db, nats, keyStore: async () => keyStore })
const revocation = { reason: 'leaked', by: 'test', runId: crypto.randomUUID() }

test('a key is made, used and destroyed in its own store alone', async () => {
  const purpose = 'kept'
  const ask = { purpose, algorithm: 'ES256' as const, policy, by: 'test' }
  const { kid } = await rotateKeys(at(home.store), ask)
  const elsewhere = { code: 'KEY_ELSEWHERE', exitCode: 5 }

  await expect(rotateKeys(at(foreign.store), ask)).rejects.toMatchObject(elsewhere)
  const token = { purpose, typ: 'JWT', lifetimeS: 60, claims: {} }
  const signing = signToken({ db: database.db, keyStore: foreign.store }, token)
  await expect(signing).rejects.toMatchObject(elsewhere)
  expect(await listKeys(database, { purpose })).toMatchObject([
    { kid, store: await home.store.identity(kid) },
  ])

  // A leaked key is revoked from anywhere; that its private half is gone is not claimed, and no other store takes over.
  const revoked = await revokeKey(at(foreign.store), { kid, ...revocation })
  expect(revoked).toMatchObject({ revoked: true, successor: null })
  expect(revoked.undestroyed.join()).toMatch(/was not destroyed: .* lies in the key store file:/)
  await home.store.find(kid)
  const due = { ...ask, maxAgeS: 1e6 }
  await expect(rotateDueKeys(at(foreign.store), due)).rejects.toMatchObject(elsewhere)
  const store = await home.store.identity(kid)
  expect(await keysStatus(database, { purpose, maxAgeS: 1e6 })).toMatchObject([
    { undestroyed: [{ kid, store }] },
  ])

  // Moving is a decision; what lies in the old store is destroyed where that store is.
  const moved = await rotateKeys(at(foreign.store), { ...ask, changeStore: true })
  await foreign.store.find(moved.kid)
  expect(await rotateDueKeys(at(home.store), due)).toMatchObject({ undestroyed: [] })
  await expect(home.store.find(kid)).rejects.toMatchObject({ code: 'NOT_FOUND' })
  expect(await keysStatus(database, { purpose, maxAgeS: 1e6 })).toMatchObject([{ undestroyed: [] }])
})

test('a frozen HSM holds nobody up: a join token is 503, others are served, a pass of the worker ends', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tabib-frozen-'))
  const hsm = await makeSoftHsm(folder)
  const secret = join(folder, 'pin')
  await writeFile(secret, hsm.pin, { mode: 0o600 })
  const env = {
    TABIB_DATABASE_URL: database.url('tabib'),
    TABIB_NATS_URL: inject('natsUrl'),
    TABIB_KEY_STORE: hsm.keyStore,
    TABIB_KEY_STORE_SECRET_FILE: secret,
  }
  await using app = createApp(loadConfig({ env, cwd: folder }), { log: createLogger('silent') })
  const [tenant] = await database.db.query<{ id: string }>(
    `insert into tabib.tenant (id, slug, name, region, currency)
     values (gen_random_uuid(), 'herat', 'Herat', 'AF', 'AFN') returning id`,
  )
  const visit = await makeVisit(
    { db: app.db, nats: app.nats, keyStore: app.keyStore, service: database.service },
    tenant!.id,
  )
  await using api = await openSessionApi(app, 'frozen')
  const fleet = startWorkers(app, [], thisInstance('frozen'))
  await using server = await serve(app, fleet, { host: '127.0.0.1', port: 0, sessions: api })
  const ask = () =>
    fetch(`${server.url}/api/v1/virtual-care/sessions/${visit.sessionId}/join-token`, {
      method: 'POST',
      headers: { authorization: `Bearer ${visit.serviceToken}`, 'content-type': 'application/json' },
      body: JSON.stringify({ participantId: visit.participantIds[0] }),
    })
  expect((await ask()).status).toBe(201)
  const [{ kid = '' } = {}] = await listKeys(database, { purpose: 'service-token' })
  {
    await using _frozen = await hsm.freeze()
    const asked = ask()
    // The event loop is not held up, and neither is a revocation.
    expect((await fetch(`${server.url}/livez`)).status).toBe(200)
    const revoked = await revokeKey(app, { kid, ...revocation })
    expect(revoked).toMatchObject({ revoked: true, successor: null })
    expect(revoked.undestroyed).toHaveLength(1)
    const pass = rotateDueKeys(app, { ...app.config.keys, maxAgeS: 1e6 })
    await expect(pass).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
    const answer = await asked
    expect(answer.status).toBe(503)
    expect(await answer.json()).toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
  }
  await rotateDueKeys(app, { ...app.config.keys, maxAgeS: 1e6 })
  const [successor] = await listKeys(database, { purpose: 'service-token' })
  expect(successor).toMatchObject({ phase: 'activate' })
  await rm(folder, { recursive: true })
})
