import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { type ApiServer, serve } from '../../src/api/server.ts'
import { type App, createApp, createLogger } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { rotateKeys } from '../../src/domain/keys/rotate.ts'
import { keySetAt } from '../../src/domain/keys/verifier.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'

const database = useDatabase()
const keys = useKeyStore()
const fleet = { running: [], scheduled: undefined, drain: async () => [] }
let app: App
let server: ApiServer
const at = (purpose: string, headers: Record<string, string> = {}) =>
  fetch(`${server.url}/api/v1/keys/${purpose}/jwks.json`, { headers })

beforeAll(async () => {
  const env = { ...keys.env, TABIB_DATABASE_URL: database.url('tabib'), TABIB_NATS_URL: inject('natsUrl') }
  app = createApp(loadConfig({ env, cwd: '/' }), { log: createLogger('silent') })
  server = await serve(app, fleet, { host: '127.0.0.1', port: 0 })
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
  await app[Symbol.asyncDispose]()
})

test('a key set is served with its hash, and not again while it is the same', async () => {
  const policy = { overlapS: 1_200, cacheAgeS: 600, skewS: 30, tokenLifetimeS: 300, allAttest: true }
  const rotate = () => rotateKeys(app, { purpose: 'served', algorithm: 'ES256', policy, by: 'test' })
  const { kid } = await rotate()
  const first = await at('served')
  expect(first.headers.get('content-type')).toMatch(/^application\/jwk-set\+json/)
  expect(first.headers.get('cache-control')).toBe('public, max-age=10')
  expect(await first.json()).toMatchObject({ keys: [{ kid, use: 'sig', alg: 'ES256' }], revoked: [] })
  const etag = first.headers.get('etag') ?? ''
  expect((await at('served', { 'if-none-match': etag })).status).toBe(304)

  const load = keySetAt(`${server.url}/api/v1/keys/served/jwks.json`, fetch)
  const signal = new AbortController().signal
  const loaded = await load(signal)
  expect(await load(signal)).toBe(loaded)
  await rotate()
  expect((await at('served', { 'if-none-match': etag })).status).toBe(200)
  expect((await load(signal)).keys).toHaveLength(2)
})

test('what is no name of a purpose is not found, and Postgres is not asked', async () => {
  for (const purpose of ['%00', 'No', '..%2f..%2fetc', 'x'.repeat(41)])
    expect((await at(purpose)).status).toBe(404)
})

test('a purpose without keys is not found, and without Postgres no key set passes for an empty one', async () => {
  expect((await at('nothing')).status).toBe(404)
  const config = loadConfig({ env: { TABIB_DATABASE_URL: 'postgres://tabib@127.0.0.1:1/x' }, cwd: '/' })
  await using dead = createApp(config, { log: createLogger('silent') })
  await using other = await serve(dead, fleet, { host: '127.0.0.1', port: 0 })
  const answer = await fetch(`${other.url}/api/v1/keys/served/jwks.json`)
  expect(answer.status).toBe(503)
  expect(answer.headers.get('cache-control')).toBe('no-store')
})
