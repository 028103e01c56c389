import { createHmac, randomUUID } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { execa } from 'execa'
import { exportJWK, generateKeyPair } from 'jose'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type KeyStore, openKeyStore } from '../../src/adapters/keystore/client.ts'
import type { Database } from '../../src/adapters/postgres/client.ts'
import { createApp, createLogger } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { writeManifest } from '../../src/domain/residency/manifest.ts'
import { writeTenant } from '../../src/domain/tenants/apply.ts'
import { examineTenants } from '../../src/domain/tenants/examine.ts'
import type { Reach } from '../../src/domain/tenants/probes/index.ts'
import { readTenants } from '../../src/domain/tenants/read.ts'
import { applyCurrency, planCurrency } from '../../src/domain/tenants/set-currency.ts'
import type { Tenant } from '../../src/domain/tenants/tenant.ts'
import { tenantsWithoutCurrency } from '../../src/domain/tenants/without-currency.ts'
import { completeTenant } from '../../src/sandbox/tenants.ts'
import { useDatabase } from '../support/database.ts'
import { runLine } from '../support/line.ts'

const database = useDatabase()
/** Tenants of these tests have no server of their own to ask, unless one is started for them. */
const NOTHING = { fetch: () => async () => new Response('{}'), keyStore: undefined, residency: undefined }

async function register(slug: string, change: (tenant: Tenant) => void = () => {}): Promise<Tenant> {
  const tenant = completeTenant({ slug, name: 'درمانگاه', currency: 'AFN', region: 'af-herat' })
  tenant.residency.allowed = ['af-kabul']
  change(tenant)
  await database.db.transaction((tx) => writeTenant(tx, randomUUID(), tenant))
  await database.db.query('update tabib.tenant set status = $2 where slug = $1', [slug, tenant.status])
  return tenant
}
let herat: Tenant
beforeAll(async () => {
  herat = await register('herat-markaz')
})

const tabib = async (...argv: string[]) => {
  const env = { TABIB_DATABASE_URL: database.url('tabib') }
  const { exitCode, stdout } = await runLine([...argv, '--json'], env)
  return { exitCode, ...JSON.parse(stdout) }
}

/** Ids and objects of what fails. */
async function failures(slug: string | undefined, reach?: Partial<Reach>): Promise<string[]> {
  const subjects = await readTenants(database.db, slug)
  const { findings } = await examineTenants(subjects, {
    now: new Date(),
    reach: reach && { ...NOTHING, db: database.db, ...reach },
  })
  return findings.filter(({ severity }) => severity !== 'info').map(({ id, object }) => `${id} ${object}`)
}

describe('a tenant in the database', () => {
  test('is the document that its parts were written from', async () => {
    const [stored] = await readTenants(database.db, 'herat-markaz')
    const written = JSON.parse(JSON.stringify(herat))
    // Postgres writes moments in its own way.
    const [list] = stored!.tenant.priceLists
    list!.from = new Date(list!.from).toISOString()
    expect(stored).toMatchObject({ tenant: written, problems: [] })
    expect(await failures('herat-markaz')).toEqual([])
  })

  test('is found by its id, and a name near it is proposed for one that is not there', async () => {
    const [{ id } = { id: '' }] = await readTenants(database.db, 'herat-markaz')
    expect((await readTenants(database.db, id))[0]?.tenant.slug).toBe('herat-markaz')
    await expect(readTenants(database.db, 'herat-marks')).rejects.toMatchObject({
      code: 'NOT_FOUND',
      suggestions: ['tabib tenant check herat-markaz', 'tabib tenant list'],
    })
  })

  test('with a broken profile is told so, and what can be understood is still checked', async () => {
    await register('kabul-broken', (tenant) => {
      tenant.refunds.approvers = []
    })
    await database.owner.query('alter table tabib.tenant_profile no force row level security')
    await database.owner.query(
      `update tabib.tenant_profile set document = document || '{"quotas": 7, "colour": "blue"}'
       where tenant_id = (select id from tabib.tenant where slug = 'kabul-broken')`,
    )
    await database.owner.query('alter table tabib.tenant_profile force row level security')
    expect(await failures('kabul-broken')).toEqual([
      'tenant/document kabul-broken quotas',
      'tenant/document kabul-broken colour',
      'tenant/refund-approvers kabul-broken',
      'tenant/quotas kabul-broken patients',
      'tenant/quotas kabul-broken sessionsPerDay',
      'tenant/quotas kabul-broken messagesPerDay',
      'tenant/quotas kabul-broken storageGb',
    ])
  })

  test('costs no statement more when there are many', async () => {
    const statements = async (slug?: string) => {
      let count = 0
      const counting: Database = {
        ...database.db,
        query: (...args) => {
          count += 1
          return database.db.query(...args)
        },
        transaction: (work) =>
          database.db.transaction((tx) =>
            work({
              ...tx,
              query: (...args) => {
                count += 1
                return tx.query(...args)
              },
            }),
          ),
      }
      const subjects = await readTenants(counting, slug)
      await examineTenants(subjects, {
        now: new Date(),
        reach: { ...NOTHING, db: counting },
      })
      return { count, tenants: subjects.length }
    }
    const one = await statements('herat-markaz')
    for (let n = 0; n < 20; n++) await register(`clinic-${n}`)
    const many = await statements()
    expect(many.tenants).toBeGreaterThan(20)
    expect(many.count).toBe(one.count)
  })
})

describe('a probe of the database', () => {
  test('finds rows that a stranger sees, and whose they are', async () => {
    const leaking = async () =>
      (await failures('herat-markaz', {})).filter((one) => one.startsWith('tenant/isolation-probe'))
    expect(await leaking()).toEqual([])
    await database.owner.query('alter table billing.item disable row level security')
    expect(await leaking()).toEqual(['tenant/isolation-probe herat-markaz'])
    await database.owner.query('alter table billing.item enable row level security')
    expect(await leaking()).toEqual([])
  })
})

describe('a probe of a key store', () => {
  let folder: string
  let keyStore: KeyStore
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tabib-tenant-'))
    await writeFile(join(folder, 'secret'), 'a passphrase of some length', { mode: 0o600 })
    keyStore = await openKeyStore({
      url: `file:${join(folder, 'keys')}`,
      secretFile: join(folder, 'secret'),
      fetch,
    })
  })
  afterAll(async () => {
    await keyStore[Symbol.asyncDispose]()
    await rm(folder, { recursive: true })
  })

  test('has the key sign, and tells one that is not there', async () => {
    const { ref } = await keyStore.generate('ES256')
    const withKey = (key: string) => (tenant: Tenant) => {
      tenant.keys = { kms: { ref: key, region: 'af-herat' }, subjects: { wrappedBy: key } }
    }
    await register('key-there', withKey(ref))
    await register('key-gone', withKey('no-such-key'))
    const reach = { keyStore: async () => keyStore }
    const ofKeys = async (slug: string) =>
      (await failures(slug, reach)).filter((one) => one.startsWith('tenant/kms-signs'))
    expect(await ofKeys('key-there')).toEqual([])
    expect(await ofKeys('key-gone')).toEqual(['tenant/kms-signs key-gone'])
  })

  test('that cannot be opened is told, and the other checks go on', async () => {
    await register('key-shut')
    const shut = () =>
      openKeyStore({ url: `file:${join(folder, 'keys')}`, secretFile: join(folder, 'absent'), fetch })
    expect(await failures('key-shut', { keyStore: shut })).toEqual([
      'tenant/kms-signs key-shut',
      expect.stringMatching(/^tenant\/jwks/),
    ])
  })

  test('believes signed manifests of backups, and holds their regions against the allowlist', async () => {
    const key = await keyStore.generate('ES256')
    const trustedKeys = join(folder, 'trusted.json')
    await writeFile(trustedKeys, JSON.stringify({ keys: [key.publicJwk] }))
    const manifests = join(folder, 'manifests')
    await mkdir(manifests)
    const regions = { 'af-herat': [], 'af-kabul': [], 'eu-west': [] }
    const residency = {
      regions,
      manifests,
      trustedKeys,
      platform: [],
      clusters: {},
      policies: [],
      maxManifestAge: 1,
    }
    const flaws = async () => {
      const [subject] = await readTenants(database.db, 'herat-markaz')
      const reach = { ...NOTHING, db: database.db, residency }
      const { findings } = await examineTenants([subject!], { now: new Date(), reach })
      return findings.filter(({ id }) => id === 'tenant/backup-manifests').map(({ message }) => message)
    }
    const back = (label: string, region: string, keyRegion: string) => {
      const iat = Math.floor(Date.now() / 1_000)
      const manifest = { label, region, keyRegion, systemIdentifier: '1', tenantSetHash: '0'.repeat(64), iat }
      return writeManifest({ keyStore }, { folder: manifests, key, manifest })
    }
    expect(await flaws()).toEqual([expect.stringContaining('no backup manifest lies in')])
    await back('nightly', 'af-kabul', 'af-herat')
    expect(await flaws()).toEqual([])
    await back('weekly', 'eu-west', 'eu-west')
    expect(await flaws()).toEqual(['backup weekly lies in eu-west; the key of backup weekly lies in eu-west'])
    await database.db.query(
      `insert into tabib.signing_key (kid, purpose, algorithm, ref, public_jwk, probe, phase,
         overlap_s, cache_age_s, skew_s, token_lifetime_s, all_attest)
       values ($1, 'backup-manifest', 'ES256', $1, $2, '', 'activate', 600, 0, 0, 0, false)`,
      [key.ref, JSON.stringify(key.publicJwk)],
    )
    const revoke = `insert into tabib.key_revocation (kid, purpose, reason, revoked_by, run_id)
                    values ($1, 'backup-manifest', 'leaked', 'root', gen_random_uuid())`
    await database.db.query(revoke, [key.ref])
    expect(await flaws()).toEqual([
      expect.stringContaining('the manifest of backup nightly was signed with a revoked key'),
    ])
    await database.owner.query('delete from tabib.key_revocation')
    await writeFile(join(manifests, 'weekly.manifest.jws'), 'forged')
    expect(await flaws()).toEqual([expect.stringContaining('the manifest of backup weekly is not believed')])
  })
})

/** A server of the tenant's own; what it answers is decided by the path. */
function useServer(
  answer: (request: IncomingMessage, body: string) => [status: number, body?: string | undefined],
) {
  const server = createServer(async (request, response) => {
    const [status, body = ''] = answer(request, await text(request))
    response.writeHead(status, status === 302 ? { location: body } : {}).end(status === 302 ? '' : body)
  })
  beforeAll(() => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)))
  afterAll(() => new Promise((resolve) => server.close(resolve)))
  return () => `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

describe("a probe of a tenant's servers", () => {
  const secret = `whsec_${Buffer.alloc(32, 7).toString('base64')}`
  const sets: Record<string, string> = {}
  const holds = ({ headers }: IncomingMessage, body: string) => {
    const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`
    const expected = createHmac('sha256', Buffer.alloc(32, 7)).update(signed).digest('base64')
    return headers['webhook-signature'] === `v1,${expected}`
  }
  const url = useServer((request, body) => {
    const { url: path = '' } = request
    if (path === '/hook') return [holds(request, body) ? 204 : 401]
    if (path === '/credulous') return [204]
    if (path === '/elsewhere') return [302, '/good']
    return path.slice(1) in sets ? [200, sets[path.slice(1)]] : [404]
  })
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tabib-tenant-'))
    await writeFile(join(folder, 'secret'), secret)
    await writeFile(join(folder, 'short'), 'whsec_AAAA')
    const { publicKey, privateKey } = await generateKeyPair('ES256', { extractable: true })
    const set = async (key: typeof publicKey) =>
      JSON.stringify({ keys: [{ kid: 'a', ...(await exportJWK(key)) }] })
    Object.assign(sets, {
      good: await set(publicKey),
      leak: await set(privateKey),
      none: '{"keys":[]}',
      odd: '<html>',
    })
  })
  afterAll(() => rm(folder, { recursive: true }))

  const messages = async (change: (tenant: Tenant) => void) => {
    const tenant = completeTenant({ slug: 'herat', name: 'Herat', currency: 'AFN', region: 'af-herat' })
    change(tenant)
    const reach = { ...NOTHING, db: database.db, fetch: () => fetch }
    const { findings } = await examineTenants([{ id: randomUUID(), tenant }], { now: new Date(), reach })
    const probes = findings.filter(({ id, severity }) => /signed-test|jwks/.test(id) && severity !== 'info')
    return probes.map(({ message }) => message.replace(url(), '').replace(folder, ''))
  }
  const withHook = (path: string, file: string) => (tenant: Tenant) => {
    tenant.identity!.jwksUri = `${url()}/good`
    Object.assign(tenant.payment!.webhook!, {
      url: `${url()}${path}`,
      secretRef: `file:${join(folder, file)}`,
    })
  }
  const withSet = (jwksUri: string) => (tenant: Tenant) => {
    tenant.identity!.jwksUri = jwksUri
  }

  test('passes a webhook that tells a signed test from a forged one', async () => {
    expect(await messages(withHook('/hook', 'secret'))).toEqual([])
  })

  test.each([
    [
      '/credulous',
      'secret',
      '/credulous answers a forged test with HTTP 204: it does not look at signatures',
    ],
    ['/gone', 'secret', '/gone answers a signed test with HTTP 404'],
    ['/hook', 'absent', 'file:/absent cannot be read: ENOENT'],
    ['/hook', 'short', 'file:/short holds no secret of 24 to 64 bytes in base64'],
    ['/hook', '', 'file: is no file'],
  ])('tells of a webhook at %s with the secret "%s"', async (path, file, message) => {
    expect(await messages(withHook(path, file))).toEqual([message])
  })

  test('says how a secret is made, and what is typed then is one', async () => {
    const tenant = completeTenant({ slug: 'herat', name: 'Herat', currency: 'AFN', region: 'af-herat' })
    withHook('/hook', 'made')(tenant)
    const asked = async () => {
      const reach = { ...NOTHING, db: database.db, fetch: () => fetch }
      const { findings } = await examineTenants([{ id: randomUUID(), tenant }], { now: new Date(), reach })
      return findings.find(({ id }) => id === 'tenant/webhook-signed-test')
    }
    await execa('bash', ['-ec', (await asked())!.fix!])
    // The clinic's own copy is another still.
    expect((await asked())?.message).toContain('answers a signed test with HTTP 401')
  })

  test.each([
    ['leak', 'it publishes a private key: that key is lost'],
    ['none', 'none of its keys verifies signatures'],
    ['odd', 'the answer is no key set'],
    ['absent', 'HTTP 404'],
    ['elsewhere', 'unexpected redirect'],
  ])('tells of a key set that is %s', async (path, message) => {
    expect(await messages(withSet(`${url()}/${path}`))).toEqual([`/${path}: ${message}`])
  })

  test('asks no other machine without TLS, and tells of one that is not there', async () => {
    expect(await messages(withSet('http://id.clinics.example/jwks'))).toEqual([
      'http://id.clinics.example/jwks: it is not asked without TLS',
    ])
    expect(await messages(withSet('http://127.0.0.1:1/jwks'))).toEqual([
      expect.stringMatching(/^http:\/\/127\.0\.0\.1:1\/jwks: .*(ECONNREFUSED|bad port)/),
    ])
  })
})

test("a tenant's server beyond its regions is not reached, and that is told", async () => {
  const config = loadConfig({ env: { TABIB_DATABASE_URL: database.url('tabib') }, cwd: '/' })
  const regions = { 'af-herat': ['10.9.0.0/16'], 'af-kabul': ['10.8.0.0/16'] }
  const residency = { regions, platform: [], clusters: {}, policies: [], maxManifestAge: 1 }
  await using app = createApp({ ...config, residency }, { log: createLogger('silent') })
  const [subject] = await readTenants(database.db, 'herat-markaz')
  subject!.tenant.identity!.jwksUri = 'https://127.0.0.1:8443/jwks'
  const reach = { ...NOTHING, db: database.db, fetch: (id: string) => app.fetch(id) }
  const { findings } = await examineTenants([subject!], { now: new Date(), reach })
  expect(findings.find(({ id }) => id === 'tenant/jwks-reachable')?.message).toContain(
    'outside the networks that this traffic may go to',
  )
})

describe('a currency that is missing', () => {
  const lacks = (tenant: Tenant) => {
    delete tenant.currency
  }
  const CONSTRAINT = `constraint live_has_currency
    check (status <> 'live' or (currency is not null and currency <> '')) not valid`
  // Tenants from before the database refused them; those of other tests are none of these.
  beforeEach(async () => {
    await database.owner.query('alter table tabib.tenant drop constraint live_has_currency')
    await database.owner.query(`update tabib.tenant set status = 'onboarding'`)
  })
  afterEach(async () => {
    await database.owner.query(`alter table tabib.tenant add ${CONSTRAINT}`)
  })

  test('of a live tenant is detected and set to the one that its prices and accounts are in', async () => {
    expect(await tenantsWithoutCurrency(database)).toEqual([])
    await register('paid-in-afn', lacks)
    await register('paid-in-two', (tenant) => {
      lacks(tenant)
      tenant.accounts[0]!.currency = 'USD'
    })
    await register('withdrawn', (tenant) => {
      tenant.currency = 'HRK'
    })
    await register('emptied', (tenant) => {
      tenant.currency = ''
    })
    await register('not-live-yet', (tenant) => {
      lacks(tenant)
      tenant.status = 'onboarding'
    })
    expect(await tenantsWithoutCurrency(database)).toEqual([
      'emptied',
      'paid-in-afn',
      'paid-in-two',
      'withdrawn',
    ])
    const plan = await planCurrency(database, {})
    expect(plan).toEqual({
      set: [
        { slug: 'emptied', from: '', to: 'AFN' },
        { slug: 'paid-in-afn', from: null, to: 'AFN' },
        { slug: 'withdrawn', from: 'HRK', to: 'AFN' },
      ],
      undecided: [{ slug: 'paid-in-two', why: 'its price lists and accounts are in AFN, USD' }],
    })
    expect(await applyCurrency(database, plan)).toEqual({ set: 3 })
    expect(await applyCurrency(database, plan)).toEqual({ set: 0 })
    expect(await tenantsWithoutCurrency(database)).toEqual(['paid-in-two'])
  })

  test('is set for one tenant only where nothing speaks against it', async () => {
    const attempt = (tenant: string, currency?: string) => planCurrency(database, { tenant, currency })
    await register('undecided', (tenant) => {
      lacks(tenant)
      tenant.status = 'onboarding'
    })
    await expect(attempt('herat-markaz', 'USD')).rejects.toMatchObject({ code: 'NOT_NEEDED' })
    await expect(attempt('undecided', 'USD')).rejects.toMatchObject({ code: 'USAGE' })
    await expect(attempt('undecided', 'afn')).rejects.toMatchObject({ code: 'USAGE' })
    await expect(attempt('nobody', 'AFN')).rejects.toMatchObject({ code: 'NOT_FOUND' })
    expect((await attempt('undecided', 'AFN')).set).toEqual([{ slug: 'undecided', from: null, to: 'AFN' }])
  })

  test('is set by a command that shows its plan, wants a yes, leaves what it cannot decide, and is on record', async () => {
    await register('typed', lacks)
    await register('typed-in-two', (tenant) => {
      lacks(tenant)
      tenant.accounts[0]!.currency = 'USD'
    })
    const planned = await tabib('tenant', 'set-currency', '--dry-run')
    expect(planned).toMatchObject({ exitCode: 0, result: { plan: { set: [{ slug: 'typed', to: 'AFN' }] } } })
    expect(await tabib('tenant', 'set-currency')).toMatchObject({ exitCode: 5 })
    const apply = ['tenant', 'set-currency', '--apply', planned.result.planHash, '--yes']
    expect(await tabib(...apply)).toMatchObject({
      exitCode: 7,
      result: { changed: 1, undecided: [{ slug: 'typed-in-two' }] },
    })
    expect(await tabib(...apply)).toMatchObject({ exitCode: 6 })
    const live = await tabib('tenant', 'list', '--status', 'live')
    expect(live.result).toContainEqual(expect.objectContaining({ slug: 'typed', currency: 'AFN' }))
    expect(live.result).not.toContainEqual(expect.objectContaining({ slug: 'herat-markaz' }))
    expect((await tabib('audit', 'list')).result).toContainEqual(
      expect.objectContaining({ command: 'tenant set-currency', outcome: 'ok', targets: ['tenant:typed'] }),
    )
  })
})
