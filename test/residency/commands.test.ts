import { randomBytes, randomUUID } from 'node:crypto'
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { type KeyStore, openKeyStore, type StoredKey } from '../../src/adapters/keystore/client.ts'
import { createApp } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { addOperator } from '../../src/domain/approval/operator.ts'
import { signJws } from '../../src/domain/keys/jws.ts'
import { allowRegion } from '../../src/domain/residency/allow.ts'
import { judgePolicies } from '../../src/domain/residency/egress.ts'
import { readGateState } from '../../src/domain/residency/gate.ts'
import { judgeTarget } from '../../src/domain/residency/judge.ts'
import { writeManifest } from '../../src/domain/residency/manifest.ts'
import { readTenancy, tenantSetHash } from '../../src/domain/residency/tenants.ts'
import { findTenant } from '../../src/domain/tenants/find.ts'
import type { Finding } from '../../src/finding.ts'
import { packageRoot } from '../../src/package-root.ts'
import { type PatroniServer, startPatroni } from '../../src/sandbox/servers/patroni.ts'
import { useDatabase } from '../support/database.ts'
import { runLine } from '../support/line.ts'

const database = useDatabase()
const HERAT = 'herat-markaz'
const KABUL = 'kabul-karte-seh'
let folder: string
let keyStore: KeyStore
let key: StoredKey
let standby: PatroniServer
let own: PatroniServer

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-residency-'))
  await mkdir(join(folder, 'manifests'))
  await writeFile(join(folder, 'secret'), randomBytes(24).toString('base64'), { mode: 0o600 })
  keyStore = await openKeyStore({ url: `file:${folder}/keys`, secretFile: join(folder, 'secret'), fetch })
  key = await keyStore.generate('ES256')
  await database.db.query(
    `insert into tabib.signing_key (kid, purpose, algorithm, ref, public_jwk, probe, phase,
       overlap_s, cache_age_s, skew_s, token_lifetime_s, all_attest)
     values ($1, 'backup-manifest', 'ES256', $1, $2, '', 'activate', 600, 0, 0, 0, false)`,
    [key.ref, JSON.stringify(key.publicJwk)],
  )
  await writeFile(join(folder, 'trusted.jwks'), JSON.stringify({ keys: [key.publicJwk] }))
  ;[standby, own] = await Promise.all([
    startPatroni({
      scope: 'herat',
      members: [{ name: 'n1', tags: { region: 'af-herat' } }],
      standbyOf: inject('adminUrl'),
    }),
    startPatroni({
      scope: 'kandahar-dr',
      members: [{ name: 'n1', tags: { region: 'af-kandahar' } }, { name: 'n2' }],
    }),
  ])
}, 120_000)
afterAll(async () => {
  await standby[Symbol.asyncDispose]()
  await own[Symbol.asyncDispose]()
  await keyStore[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})

const residency = () => ({
  regions: {
    'af-kabul': ['10.20.0.0/16'],
    'af-herat': ['10.30.0.0/16', '2001:db8:30::/48'],
    'af-kandahar': ['10.40.0.0/16'],
  },
  platform: ['127.0.0.1/32'],
  clusters: {
    'herat-dr': { scope: 'herat', patroni: standby.urls },
    'kandahar-dr': { patroni: own.urls },
    'dead-dr': { patroni: ['http://127.0.0.1:14999', 'http://127.0.0.2:14999'] },
  } as Record<string, object>,
  manifests: 'manifests',
  trustedKeys: 'trusted.jwks',
})

async function configure(change: object = {}): Promise<void> {
  const clinic = {
    database: { url: database.url('tabib') },
    keys: { store: `file:${folder}/keys`, secretFile: 'secret' },
    residency: { ...residency(), ...change },
  }
  await writeFile(join(folder, 'tabib.yaml'), stringify({ currentContext: 'clinic', contexts: { clinic } }))
}

interface Answer {
  exitCode: number | undefined
  stderr: string
  stdout: string
  // biome-ignore lint/suspicious/noExplicitAny: whatever the envelope holds
  json: any
}

const tabibAs = async (actor: string, ...argv: string[]): Promise<Answer> => {
  const env = { TABIB_CONFIG: join(folder, 'tabib.yaml'), TABIB_ACTOR: actor }
  const { exitCode, stdout, stderr } = await runLine(argv, env)
  return { exitCode, stdout, stderr, json: argv.includes('--json') ? JSON.parse(stdout) : undefined }
}
const tabib = (...argv: string[]) => tabibAs('ahmad@ops', ...argv)
/** The gate counts from the start of its process, which is this one: what hangs is asked with its own second. */
const gate = (...more: string[]) => hurriedGate('--answer-within', '10m', ...more)
const hurriedGate = (...more: string[]) =>
  tabib('residency', 'gate', '--target', 'herat-dr', '--json', ...more)
const sign = (label: string, region = 'af-herat', keyRegion = region) =>
  tabib('residency', 'manifest', label, '--region', region, '--key-region', keyRegion, '--json')
const allow = (slug: string, region: string, ...more: string[]) =>
  tabib('residency', 'allow', slug, region, '--confirm', slug, '--reason', 'contract', '--json', ...more)
const claimsOf = async (label: string) =>
  Buffer.from((await readFile(manifestFile(label), 'utf8')).split('.')[1]!, 'base64url').toString()
const manifestFile = (label: string) => join(folder, 'manifests', `${label}.manifest.jws`)

/** A region-compatible world: two tenants whose data may be in Herat, one fresh backup there. */
beforeEach(async () => {
  await database.db.query('delete from tabib.tenant_region')
  await database.db.query('delete from tabib.tenant')
  for (const [slug, region] of [
    [HERAT, 'af-herat'],
    [KABUL, 'af-kabul'],
  ]) {
    await database.db.query(
      `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $2, $2, $3, 'AFN')`,
      [randomUUID(), slug, region],
    )
  }
  await rm(join(folder, 'manifests'), { recursive: true })
  await mkdir(join(folder, 'manifests'))
  await configure()
  const { id: tenantId } = await findTenant(database, KABUL)
  await allowRegion(database, { tenantId, region: 'af-herat', allow: true })
  const { tenants, systemIdentifier, now } = await readTenancy(database)
  const manifest = {
    label: 'nightly',
    systemIdentifier,
    region: 'af-herat',
    keyRegion: 'af-herat',
    tenantSetHash: tenantSetHash(tenants),
    iat: Math.floor(now.getTime() / 1_000),
  }
  await writeManifest({ keyStore }, { folder: join(folder, 'manifests'), key, manifest })
})

describe('the gate', () => {
  test('lets a standby cluster take over that every tenant allows', async () => {
    const { exitCode, json } = await gate()
    expect(json.result).toMatchObject({
      target: 'herat-dr',
      decision: 'allowed',
      tenants: 2,
      members: [{ name: 'n1', region: 'af-herat' }],
      backup: { label: 'nightly', region: 'af-herat' },
    })
    expect(exitCode).toBe(0)
  })

  test('decides by the standby’s own copy of the tenants when the primary is gone', async () => {
    const [at] = await fetch(`${standby.urls[0]}/cluster`)
      .then((response) => response.json() as Promise<{ members: { port: number }[] }>)
      .then(({ members }) => members)
    const copy = new URL(database.url('tabib'))
    copy.port = String(at!.port)
    await writeFile(join(folder, 'standby.url'), copy.href)
    const wanted = await database.db.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn')
    await replayed(copy.href, wanted[0]!.lsn)
    const { exitCode, json } = await gate('--database-url-file', join(folder, 'standby.url'))
    expect(json.result?.decision, JSON.stringify(json)).toBe('allowed')
    expect(exitCode).toBe(0)
  })

  test('shows what allowing a region would change, and holds to the plan', async () => {
    const plan = async (...more: string[]) =>
      (await tabib('residency', 'allow', HERAT, 'af-kabul', '--dry-run', '--json', ...more)).json.result
    const { planHash, plan: shown } = await plan()
    expect(shown).toMatchObject({ slug: HERAT, region: 'af-kabul', allow: true, before: ['af-herat'] })
    expect((await plan('--remove')).planHash).not.toBe(planHash)
    expect((await allow(HERAT, 'af-kandahar', '--apply', planHash)).exitCode).toBe(6)
    expect((await allow(HERAT, 'af-kabul', '--apply', planHash)).json.result).toMatchObject({
      changed: true,
      allowed: ['af-herat', 'af-kabul'],
    })
    expect((await allow(HERAT, 'af-kabul', '--apply', planHash)).exitCode).toBe(6)
  })

  test('refuses for one tenant, names it, and passes once what it says is done', async () => {
    expect((await allow(KABUL, 'af-herat', '--remove')).json.result).toMatchObject({ allowed: ['af-kabul'] })
    await sign('nightly')
    const { exitCode, json } = await gate()
    expect(exitCode).toBe(5)
    expect(json.error.code).toBe('RESIDENCY_REFUSED')
    expect(json.error.message).toContain(
      `member n1 (standby_leader): it is in af-herat, which ${KABUL} does not allow`,
    )
    expect(json.error.actions).toContain(
      `tabib residency allow ${KABUL} af-herat --confirm ${KABUL} --reason "<their consent>"`,
    )
    await allow(KABUL, 'af-herat')
    expect((await gate()).json.error.message).toContain('signed for another set of tenants')
    await sign('nightly')
    expect((await gate()).exitCode).toBe(0)
  })

  test('refuses an untagged member, and a region that is not allowed', async () => {
    const { exitCode, stderr } = await tabib(
      ...['residency', 'gate', '--target', 'kandahar-dr', '--answer-within', '10m'],
    )
    expect(exitCode).toBe(5)
    expect(stderr).toContain('member n2 (replica): it does not say which region it is in')
    expect(stderr).toContain(
      `member n1 (leader): it is in af-kandahar, which ${HERAT}, ${KABUL} do not allow`,
    )
    expect(stderr).toContain('system identifiers differ')
    expect(stderr).toContain('patronictl reload kandahar-dr n2')
  })

  test('refuses an unknown region', async () => {
    const { 'af-herat': _, ...regions } = residency().regions
    await configure({ regions })
    const { exitCode, json } = await gate()
    expect(exitCode).toBe(5)
    expect(json.error.message).toContain('it is in "af-herat", and there is no such region')
  })

  test('refuses when another cluster answers', async () => {
    await configure({ clusters: { 'herat-dr': { scope: 'herat', patroni: own.urls } } })
    expect((await gate()).json.error.message).toContain('is "kandahar-dr", not "herat"')
  })

  test('refuses when nobody answers, each address named', async () => {
    const { exitCode, json } = await tabib(
      ...['residency', 'gate', '--target', 'dead-dr', '--answer-within', '10m', '--json'],
    )
    expect(exitCode).toBe(5)
    expect(json.error.message).toMatch(/127.0.0.1:14999: .*ECONNREFUSED/)
    // The second address is outside the platform's networks, so it was not even tried.
    expect(json.error.message).toMatch(/127.0.0.2:14999: 127.0.0.2 is outside the networks/)
  })

  test('refuses when Patroni hangs', async () => {
    await standby.members[0]!.pause()
    try {
      const { exitCode, json } = await hurriedGate()
      expect(exitCode).toBe(5)
      expect(json.error.message).toMatch(/cluster herat-dr: it cannot be judged: .*no answer within \d+ ms/)
    } finally {
      await standby.members[0]!.resume()
    }
  })

  test('refuses when what answers is no Patroni', async () => {
    const answers = ['<html>', '{}', '{"members":[{"name":"n1"}]}']
    for (const answer of answers) {
      const server = createServer((_request, response) => response.end(answer))
      await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
      const { port } = server.address() as AddressInfo
      await configure({ clusters: { 'herat-dr': { patroni: [`http://127.0.0.1:${port}`] } } })
      const { exitCode, json } = await gate()
      expect(exitCode).toBe(5)
      expect(json.error.message).toContain('not Patroni’s answer')
      server.close().closeAllConnections()
    }
  })

  test('refuses when the database is away', async () => {
    await writeFile(join(folder, 'away.url'), 'postgres://tabib@127.0.0.1:9/tabib')
    const { exitCode, json } = await gate('--database-url-file', join(folder, 'away.url'))
    expect(exitCode).toBe(5)
    expect(json.error.message).toMatch(/the tenants: it cannot be judged: Postgres at .* is unreachable/)
  })

  test('refuses, and ends, while the manifests hang', async () => {
    await execa('mkfifo', [manifestFile('hanging')])
    const { exitCode, json } = await hurriedGate()
    expect(exitCode).toBe(5)
    expect(json.error.message).toContain('the folder of manifests gave no answer within')
  })

  test('refuses when the server gives its answer up', async () => {
    const url = new URL(database.url('tabib'))
    url.searchParams.set('options', '-c statement_timeout=50')
    await writeFile(join(folder, 'hasty.url'), url.href)
    await database.owner.transaction(async (tx) => {
      await tx.query('lock table tabib.tenant in access exclusive mode')
      const { exitCode, json } = await gate('--database-url-file', join(folder, 'hasty.url'))
      expect(exitCode).toBe(5)
      expect(json.error.message).toMatch(/the tenants: it cannot be judged: .*statement timeout/)
    })
  })

  test('knows no other cluster, and says which was meant', async () => {
    const { exitCode, json } = await tabib('residency', 'gate', '--target', 'herta-dr', '--json')
    expect(exitCode).toBe(2)
    expect(json.error).toMatchObject({
      code: 'NOT_FOUND',
      actions: ['tabib residency gate --target herat-dr'],
    })
    expect((await tabib('residency', 'gate', '--target', 'constructor', '--json')).exitCode).toBe(2)
  })

  describe('believes no manifest', () => {
    const refusedFor = async (label: string, why: string) => {
      const config = loadConfig({ env: { TABIB_CONFIG: join(folder, 'tabib.yaml') }, cwd: folder })
      await using app = createApp(config)
      const state = await readGateState(app, { target: 'herat-dr', backup: label, limitMs: 10_000 })
      const reasons = judgeTarget(state).map(({ object, message }) => `${object}: ${message}`)
      expect(reasons).toEqual([expect.stringContaining(why)])
    }
    const claims = async () => JSON.parse(await claimsOf('nightly'))
    const signed = async (label: string, change: object, by = key, typ = 'tabib-backup-manifest+jws') =>
      writeFile(
        manifestFile(label),
        await signJws({ keyStore }, { key: by, typ, payload: { ...(await claims()), label, ...change } }),
      )

    test('that is stale', async () => {
      await signed('old', { iat: (await claims()).iat - 27 * 3_600 })
      await refusedFor('old', 'its manifest is 27.0 h old; 26.0 h at most')
    })

    test('that a stranger signed', async () => {
      await signed('forged', {}, await keyStore.generate('ES256'))
      await refusedFor('forged', 'no trusted key')
    })

    test('whose key was revoked since', async () => {
      const revoke = `insert into tabib.key_revocation (kid, purpose, reason, revoked_by, run_id)
                      values ($1, 'backup-manifest', 'leaked', 'root', gen_random_uuid())`
      await database.db.query(revoke, [key.ref])
      try {
        await refusedFor('nightly', 'backup nightly: its manifest was signed with a key that was revoked')
      } finally {
        await database.owner.query('delete from tabib.key_revocation')
      }
    })

    // What was revoked is known by its kid: whoever holds the key must not get round that by leaving it out.
    test('that does not name its key', async () => {
      const header = Buffer.from(
        JSON.stringify({ alg: key.algorithm, typ: 'tabib-backup-manifest+jws' }),
      ).toString('base64url')
      const payload = Buffer.from(JSON.stringify({ ...(await claims()), label: 'unnamed' })).toString(
        'base64url',
      )
      const signature = await keyStore.sign(key.ref, Buffer.from(`${header}.${payload}`))
      const jws = `${header}.${payload}.${Buffer.from(signature).toString('base64url')}`
      await writeFile(manifestFile('unnamed'), jws)
      await refusedFor('unnamed', 'it does not name the key that signed it')
    })

    test('that was changed after it was signed', async () => {
      const [header, , signature] = (await readFile(manifestFile('nightly'), 'utf8')).trim().split('.')
      const payload = Buffer.from(JSON.stringify({ ...(await claims()), label: 'changed' })).toString(
        'base64url',
      )
      await writeFile(manifestFile('changed'), `${header}.${payload}.${signature}`)
      await refusedFor('changed', 'no trusted key')
    })

    test('that nobody signed', async () => {
      const header = Buffer.from('{"alg":"none","typ":"tabib-backup-manifest+jws"}').toString('base64url')
      const payload = Buffer.from(JSON.stringify({ ...(await claims()), label: 'unsigned' })).toString(
        'base64url',
      )
      await writeFile(manifestFile('unsigned'), `${header}.${payload}.`)
      await refusedFor('unsigned', 'no trusted key')
    })

    test('that was signed for another backup, is another kind of token, or is no manifest', async () => {
      await copyFile(manifestFile('nightly'), manifestFile('copied'))
      await refusedFor('copied', 'signed for backup nightly')
      await signed('approval', {}, key, 'tabib-approval+jws')
      await refusedFor('approval', 'it is a "tabib-approval+jws"')
      await signed('halved', { tenantSetHash: undefined })
      await refusedFor('halved', 'not those of a manifest')
      await writeFile(manifestFile('garbage'), 'nonsense')
      await refusedFor('garbage', 'no trusted key')
      await refusedFor('missing', 'has no manifest')
      await refusedFor('../secret', 'has no manifest')
    })

    test('of a backup or a key that lies elsewhere', async () => {
      await signed('abroad', { region: 'af-kandahar' })
      await refusedFor('abroad', 'backup abroad: it is in af-kandahar, which')
      await signed('key', { keyRegion: 'af-kandahar' })
      await refusedFor('key', 'key of backup key: it is in af-kandahar')
    })

    test('in a folder whose newest one cannot be read', async () => {
      await writeFile(manifestFile('garbage'), 'nonsense')
      expect((await gate()).json.error.message).toContain('backup garbage is not believed')
    })
  })
})

describe('breaking the glass', () => {
  const glass = (...more: string[]) =>
    gate('--break-glass', '--confirm', 'herat-dr', '--reason', 'quake in Kabul', ...more)

  test('takes two people, opens an incident, and lands in the trail', async () => {
    await allow(KABUL, 'af-herat', '--remove')
    await sign('nightly')
    for (const name of ['maryam@ops', 'ahmad@ops']) {
      const { publicJwk } = await keyStore.generate('ES256')
      await addOperator(database, { name, publicJwk, by: 'root' })
    }
    const alone = await glass()
    expect(alone.exitCode).toBe(5)
    expect(alone.json.error.code).toBe('APPROVAL_REQUIRED')
    const { planHash } = alone.json.error.context
    const { json: dry } = await gate('--break-glass', '--dry-run')
    expect(dry.result.planHash).toBe(planHash)

    const file = join(folder, 'approval.jws')
    const consent = ['approval', 'create', planHash, '--reason', 'agreed', '--file', file]
    expect((await tabibAs('maryam@ops', ...consent)).exitCode).toBe(0)
    const self = await tabibAs(
      'maryam@ops',
      'residency',
      'gate',
      '--target',
      'herat-dr',
      '--break-glass',
      '--confirm',
      'herat-dr',
      '--reason',
      'mine',
      '--approval',
      file,
    )
    expect(self.exitCode).toBe(4)

    const done = await glass('--approval', file)
    expect(done.exitCode, done.stdout).toBe(0)
    expect(done.json.result).toMatchObject({
      decision: 'broken-glass',
      against: Array(3).fill({ id: 'residency/disallowed' }),
    })
    expect((await glass('--approval', file)).exitCode).toBe(4)

    const trail = await database.db.query<{ record: Record<string, unknown> }>(
      `select record from tabib.audit
       where record->>'command' = 'residency gate' and record->>'approver' is not null order by seq`,
    )
    expect(trail.map(({ record }) => record)).toMatchObject([
      { phase: 'before', actor: 'ahmad@ops', approver: 'maryam@ops', reason: 'quake in Kabul', planHash },
      { phase: 'after', outcome: 'ok', failureMode: 'billing/FM-22', targets: ['cluster:herat-dr'] },
    ])
    const [incident] = await database.db.query<{ detail: { notify: string[] } }>(
      `select detail from tabib.incident where mode = 'billing/FM-22' and severity = 'page'`,
    )
    expect(incident?.detail.notify).toEqual(['ops', 'compliance'])
  })

  describe('while no database takes writes', () => {
    const people: Record<string, StoredKey> = {}
    let away: string[]
    beforeAll(async () => {
      for (const name of ['nasrin@ops', 'omid@ops']) {
        people[name] = await keyStore.generate('ES256')
        await addOperator(database, { name, publicJwk: people[name].publicJwk, by: 'root' })
      }
      await configure()
      await writeFile(join(folder, 'operators.jwks'), (await tabib('operator', 'list', '--jwks')).stdout)
      await writeFile(join(folder, 'away.url'), 'postgres://tabib@127.0.0.1:9/tabib')
      away = ['--database-url-file', join(folder, 'away.url')]
    })
    beforeEach(async () => {
      await rm(join(folder, 'journal'), { recursive: true, force: true })
      await database.owner.query('delete from tabib.incident')
      await configure({ operators: 'operators.jwks', journal: 'journal' })
    })
    const journal = (...more: string[]) => tabib('residency', 'journal', '--json', ...more)
    const breaking = ['residency', 'gate', '--target', 'herat-dr', '--break-glass', '--json']
    const consentOf = async (name: string, where: string[]) => {
      const { json } = await tabib(...breaking, '--dry-run', ...where)
      const file = join(folder, `${name}.jws`)
      const consent = ['approval', 'create', json.result.planHash, '--reason', 'agreed', '--file', file]
      expect((await tabibAs(name, ...consent, ...where)).exitCode).toBe(0)
      return file
    }
    const broken = (name: string, file: string, where: string[]) =>
      tabibAs(name, ...breaking, '--confirm', 'herat-dr', '--reason', 'quake', '--approval', file, ...where)

    test('two people break it by their keys, on record until the audit trail takes it, once', async () => {
      const file = await consentOf('nasrin@ops', away)
      expect((await broken('nasrin@ops', file, away)).json.error.message).toContain(
        'may not approve their own',
      )
      expect((await broken('nobody@ops', file, away)).json.error.code).toBe('OPERATOR_UNPROVED')
      const done = await broken('omid@ops', file, away)
      expect(done.exitCode, done.stdout).toBe(0)
      expect(done.json.result).toMatchObject({
        decision: 'broken-glass',
        journal: join(folder, 'journal', '000001.jws'),
      })
      expect((await broken('omid@ops', file, away)).json.error.message).toContain('has used it before')
      const offline = await journal('--offline', ...away)
      expect(offline.json.result.records).toMatchObject([
        { actor: 'omid@ops', approver: 'nasrin@ops', state: 'signed by both' },
      ])

      const untaken = async () =>
        (await tabib('residency', 'check', '--json')).json.result.findings.filter(
          ({ id }: Finding) => id === 'residency/journal-untaken',
        )
      expect(await untaken()).toHaveLength(1)
      // Two of us at once, when the database is back.
      const apart = () =>
        execa(process.execPath, [join(packageRoot(), 'bin/run.js'), 'residency', 'journal'], {
          env: { TABIB_CONFIG: join(folder, 'tabib.yaml') },
          reject: false,
        })
      const taken = await Promise.all([apart(), apart()])
      expect(taken.map(({ exitCode }) => exitCode)).toEqual([0, 0])
      expect((await journal()).json.result.records).toMatchObject([{ state: 'in the audit trail' }])
      expect(await untaken()).toEqual([])
      const trail = await database.db.query<{ record: Record<string, unknown> }>(
        `select record from tabib.audit where record ? 'journal' order by seq`,
      )
      const said = { actor: 'omid@ops', approver: 'nasrin@ops', reason: 'quake', command: 'residency gate' }
      expect(trail.map(({ record }) => record)).toMatchObject([
        { phase: 'before', ...said },
        { phase: 'after', outcome: 'ok', ...said },
      ])
      const [incident] = await database.db.query(
        `select occurrences from tabib.incident where mode = 'billing/FM-22' and detail->>'actor' = 'omid@ops'`,
      )
      expect(incident).toEqual({ occurrences: 1 })
      expect((await tabib('audit', 'verify', '--json')).exitCode).toBe(0)
      const used = await database.db.query(`select from tabib.approval_use where actor = 'omid@ops'`)
      expect(used).toHaveLength(1)
    })

    test('a standby is read from, and what was done is on record beside it', async () => {
      const [at] = await fetch(`${standby.urls[0]}/cluster`)
        .then((response) => response.json() as Promise<{ members: { port: number }[] }>)
        .then(({ members }) => members)
      const copy = new URL(database.url('tabib'))
      copy.port = String(at!.port)
      await writeFile(join(folder, 'standby.url'), copy.href)
      await configure({ operators: 'operators.jwks', journal: 'journal', maxManifestAge: '1ms' })
      const wanted = await database.db.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn')
      await replayed(copy.href, wanted[0]!.lsn)
      const where = ['--database-url-file', join(folder, 'standby.url')]
      const { exitCode, json } = await broken('omid@ops', await consentOf('nasrin@ops', where), where)
      expect(exitCode, JSON.stringify(json)).toBe(0)
      expect(json.result.journal).toBe(join(folder, 'journal', '000001.jws'))
    })

    test('without a journal it stays shut, and that is told', async () => {
      await configure({ operators: 'operators.jwks' })
      const { exitCode, json } = await broken('omid@ops', await consentOf('nasrin@ops', away), away)
      expect(exitCode).toBe(3)
      expect(json.error.actions[0]).toContain('residency.journal')
    })
  })

  test('does nothing where the gate is open anyway', async () => {
    const { exitCode, json } = await glass()
    expect(exitCode).toBe(0)
    expect(json.result.decision).toBe('allowed')
  })
})

describe('the check', () => {
  const check = () => tabib('residency', 'check', '--json')
  const only = (name: string) => ({ clusters: { [name]: residency().clusters[name]! } })

  test('finds nothing where all is in its place', async () => {
    await writeFile(join(folder, 'egress.yaml'), (await tabib('residency', 'egress')).stdout)
    await configure({ ...only('herat-dr'), policies: ['egress.yaml'] })
    const { exitCode, json } = await check()
    expect(json.result.findings).toEqual([])
    expect(json.result).toMatchObject({ tenants: 2, clusters: 1, backups: 1, policies: 1 })
    expect(exitCode).toBe(0)
  })

  test('finds trusted keys that cannot be read, and looks at the rest', async () => {
    await configure({ ...only('herat-dr'), trustedKeys: 'gone.jwks' })
    const { exitCode, json } = await check()
    expect(exitCode).toBe(1)
    expect(json.result.findings.map(({ id, object }: Finding) => `${id} ${object}`)).toEqual([
      'residency/not-configured residency.policies',
      'residency/manifest-unread the backups',
    ])
    const { json: status } = await tabib('status', 'billing/FM-22', '--json')
    expect(status.result.modes[0].verdict).toBe('unknown')
  })

  test('says what it was not given to look at', async () => {
    await configure({ clusters: {}, manifests: undefined, trustedKeys: undefined })
    const { exitCode, json } = await check()
    expect(json.result.findings.map(({ object, severity }: Finding) => `${severity} ${object}`)).toEqual([
      'warning residency.clusters',
      'warning residency.manifests',
      'warning residency.policies',
    ])
    expect(exitCode).toBe(0)
    const { json: status } = await tabib('status', 'billing/FM-22', '--json')
    expect(status.result.modes[0].verdict).toBe('unknown')
  })

  test('finds members, backups and policies that are not, and what it cannot read', async () => {
    await sign('elsewhere', 'af-kandahar', 'af-kabul')
    await writeFile(manifestFile('junk'), 'nonsense')
    await writeFile(
      join(folder, 'egress.yaml'),
      stringify({
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: { name: 'wide' },
        spec: {
          podSelector: {},
          policyTypes: ['Egress'],
          egress: [{ to: [{ ipBlock: { cidr: '0.0.0.0/0' } }, { ipBlock: { cidr: '10.30.7.0/24' } }] }],
        },
      }),
    )
    await configure({ policies: ['egress.yaml', 'gone.yaml'] })
    const { exitCode, json } = await check()
    expect(exitCode).toBe(1)
    const lines = json.result.findings.map(
      ({ id, object }: { id: string; object: string }) => `${id} ${object}`,
    )
    expect(lines.sort()).toEqual(
      [
        'residency/cluster-unread cluster dead-dr',
        'residency/disallowed backup elsewhere',
        'residency/disallowed cluster kandahar-dr, member n1 (leader)',
        'residency/other-database cluster kandahar-dr',
        'residency/disallowed key of backup elsewhere',
        `residency/egress-open ${join(folder, 'egress.yaml')}: NetworkPolicy wide`,
        'residency/manifest-unread backup junk',
        `residency/policy-unread ${join(folder, 'gone.yaml')}`,
        'residency/untagged cluster kandahar-dr, member n2 (replica)',
      ].sort(),
    )
    const { json: status } = await tabib('status', 'billing/FM-22', '--json')
    expect(status.result.modes[0]).toMatchObject({
      verdict: 'firing',
      value: 6,
      evidence: {
        objects: expect.arrayContaining(['backup junk']),
        unread: expect.not.arrayContaining(['backup junk']),
      },
    })
  })

  test('finds a backup of another database, and one that a revoked key signed', async () => {
    const claims = { ...JSON.parse(await claimsOf('nightly')), label: 'foreign', systemIdentifier: '7' }
    await writeManifest({ keyStore }, { folder: join(folder, 'manifests'), key, manifest: claims })
    await configure(only('herat-dr'))
    const found = async () => (await check()).json.result.findings.map(({ id }: Finding) => id)
    expect(await found()).toEqual(['residency/not-configured', 'residency/other-database'])
    await rm(manifestFile('foreign'))
    await database.db.query(
      `insert into tabib.key_revocation (kid, purpose, reason, revoked_by, run_id)
       values ($1, 'backup-manifest', 'leaked', 'root', gen_random_uuid())`,
      [key.ref],
    )
    try {
      expect(await found()).toEqual(['residency/not-configured', 'residency/revoked-key'])
      const { json: status } = await tabib('status', 'billing/FM-22', '--json')
      expect(status.result.modes[0]).toMatchObject({ verdict: 'firing', value: 1 })
    } finally {
      await database.owner.query('delete from tabib.key_revocation')
    }
  })

  test.each([
    ['no rule', 'egress: null', []],
    ['a rule without peers', 'egress: [{ to: [], ports: [{ port: 443 }] }]', ['residency/egress-open']],
    ['a rule with null for peers', 'egress: [{ to: null }]', ['residency/egress-open']],
    ['a peer that names nobody', 'egress: [{ to: [{}] }]', ['residency/egress-open']],
    [
      'pods',
      'egress: [{ to: [{ podSelector: { matchLabels: { app: proxy } } }] }]',
      ['residency/egress-to-pods'],
    ],
    ['every pod', 'egress: [{ to: [{ namespaceSelector: {} }] }]', ['residency/egress-to-pods']],
    [
      'name servers',
      'egress: [{ to: [{ namespaceSelector: {} }], ports: [{ port: 53, protocol: UDP }] }]',
      [],
    ],
    [
      'a network in IPv6 disguise',
      'egress: [{ to: [{ ipBlock: { cidr: "::ffff:10.30.0.0/112" } }] }]',
      ['residency/egress-open'],
    ],
    ['half of everything', 'egress: [{ to: [{ ipBlock: { cidr: 0.0.0.0/1 } }] }]', ['residency/egress-open']],
    ['a network of a region', 'egress: [{ to: [{ ipBlock: { cidr: 10.30.7.0/24 } }] }]', []],
    ['an alias of nothing', 'egress: *nowhere', ['residency/egress-open']],
  ])('judges a policy that opens to %s', async (_, egress, expected) => {
    const { residency: settings } = loadConfig({
      env: { TABIB_CONFIG: join(folder, 'tabib.yaml') },
      cwd: folder,
    })
    const policy = `kind: NetworkPolicy\nmetadata: { name: p }\nspec:\n  policyTypes: [Egress]\n  ${egress}\n`
    const { tenants } = await readTenancy(database)
    const findings = judgePolicies(policy, 'p.yaml', { residency: settings!, tenants })
    expect(findings.map(({ id }) => id)).toEqual(expected)
  })

  test('finds nothing in the policy that tabib compiled, for all tenants and for one', async () => {
    const all = await tabib('residency', 'egress')
    const one = await tabib('residency', 'egress', '--tenant', HERAT, '--selector', 'app=billing')
    await writeFile(join(folder, 'egress.yaml'), `${all.stdout}\n---\n${one.stdout}\n`)
    const [cidrs, narrow] = [all, one].map(({ stdout }) =>
      parse(stdout).spec.egress[0].to.map(({ ipBlock }: { ipBlock: { cidr: string } }) => ipBlock.cidr),
    )
    expect(cidrs).toEqual(['10.30.0.0/16', '2001:db8:30::/48', '10.20.0.0/16', '127.0.0.1/32'])
    expect(narrow).toEqual(['10.30.0.0/16', '2001:db8:30::/48', '127.0.0.1/32'])
    await configure({ ...only('herat-dr'), policies: ['egress.yaml'] })
    expect((await check()).json.result.findings).toEqual([])

    // As `kubectl get networkpolicy -o yaml` prints it, and without what Kubernetes fills in.
    const policy = parse(all.stdout)
    delete policy.spec.policyTypes
    await writeFile(join(folder, 'egress.yaml'), stringify({ kind: 'List', items: [policy] }))
    expect((await check()).json.result.findings).toEqual([])

    // The wider policy under one tenant's name lets out to a region that this tenant does not allow.
    await writeFile(
      join(folder, 'egress.yaml'),
      all.stdout.replace(
        'name: tabib-egress',
        `name: tabib-egress\n  annotations: { tabib/tenant: ${HERAT} }`,
      ),
    )
    expect((await check()).json.result.findings).toMatchObject([
      { id: 'residency/egress-open', evidence: { cidr: '10.20.0.0/16' } },
    ])
  })
})

describe('bad input', () => {
  test('names the setting that is wrong, all at once', async () => {
    await configure({
      regions: { ' Herat': [] },
      platform: ['0.0.0.0/0', '128.0.0.0/1', '8000::/1', '::ffff:10.0.0.0/104', '64:ff9b::/96', '2002::/16'],
      clusters: {
        a: { patroni: [] },
        b: { patroni: ['http://'] },
        c: { patroni: ['http://u:hidden@10.0.0.1'] },
      },
    })
    const { exitCode, stderr } = await tabib('residency', 'check')
    expect(exitCode).toBe(2)
    for (const place of [
      'regions: " Herat" is no name',
      'platform.0: too wide',
      'platform.1: too wide',
      'platform.2: too wide',
      'platform.3: it leads to IPv4 addresses',
      'platform.4: it leads to IPv4 addresses',
      'platform.5: it leads to IPv4 addresses',
      'clusters.a.patroni',
      'clusters.b.patroni.0: a URL',
      'clusters.c.patroni.0: no user and password',
    ]) {
      expect(stderr).toContain(`residency.${place}`)
    }
    expect(stderr).not.toContain('hidden')
  })

  test('is told of regions, tenants, labels, keys and files that are not there', async () => {
    expect((await sign('nightly', 'mars')).json.error).toMatchObject({ code: 'NOT_FOUND', exitCode: 2 })
    expect((await sign('../../etc/passwd')).json.error.code).toBe('USAGE')
    expect((await allow(KABUL, 'mars')).json.error.message).toContain('no region "mars"')
    expect((await allow('nobody', 'af-herat')).json.error.message).toContain('there is no tenant "nobody"')
    expect((await tabib('residency', 'egress', '--selector', 'nonsense')).exitCode).toBe(2)
    await writeFile(join(folder, 'private.jwks'), JSON.stringify({ keys: [{ kty: 'EC', d: 'secret' }] }))
    await configure({ trustedKeys: 'private.jwks' })
    const { exitCode, json } = await gate()
    expect(exitCode).toBe(5)
    expect(json.error.message).toContain('is no set of public keys')
    await writeFile(join(folder, 'tabib.yaml'), 'contexts: {}\n')
    expect((await gate()).json.error).toMatchObject({ code: 'CONFIG_INVALID', exitCode: 2 })
  })
})

/** Waits until the standby has replayed what the primary had written. */
async function replayed(url: string, lsn: string): Promise<void> {
  const { openDatabase } = await import('../../src/adapters/postgres/client.ts')
  await using db = openDatabase({ url, maxConnections: 1 })
  for (;;) {
    const [row] = await db.query<{ done: boolean }>('select pg_last_wal_replay_lsn() >= $1::pg_lsn as done', [
      lsn,
    ])
    if (row?.done) return
  }
}
