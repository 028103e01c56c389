import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compactVerify, importJWK } from 'jose'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type KeyStore, openKeyStore } from '../src/adapters/keystore/client.ts'
import { acceptApproval, judgeApproval, verifyApproval } from '../src/domain/approval/accept.ts'
import { createApproval } from '../src/domain/approval/create.ts'
import {
  addOperator,
  assertOperatorName,
  listOperators,
  operatorKeys,
  parsePublicKey,
} from '../src/domain/approval/operator.ts'
import { proveActor } from '../src/domain/approval/prove.ts'
import { planRemoval, removeOperator } from '../src/domain/approval/remove.ts'
import { signJws } from '../src/domain/keys/jws.ts'
import { TabibError } from '../src/errors.ts'
import { useDatabase } from './support/database.ts'
import { runLine } from './support/line.ts'

const database = useDatabase()
let folder: string
let secretFile: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-approval-'))
  secretFile = join(folder, 'secret')
  await writeFile(secretFile, randomBytes(24).toString('base64'), { mode: 0o600 })
})
afterAll(() => rm(folder, { recursive: true }))

const store = () => openKeyStore({ url: `file:${folder}/keys`, secretFile, fetch })
const PLAN = createHash('sha256').update('a plan').digest('hex')
const RUN = '0d8f0a52-9f3a-4f0e-8a55-3f6f9a3d9d10'

test('a private key is no operator’s public key, and is not repeated', async () => {
  const text = JSON.stringify({ kty: 'EC', crv: 'P-256', x: 'a', y: 'b', d: 'the-secret' })
  const refused = parsePublicKey(text, 'mine.jwk')
  await expect(refused).rejects.toMatchObject({ code: 'USAGE' })
  await expect(refused).rejects.not.toThrow(/the-secret/)
  await expect(parsePublicKey('nonsense', 'mine.jwk')).rejects.toThrow('mine.jwk holds no JSON')
  await expect(parsePublicKey('{"kty":"oct"}', 'mine.jwk')).rejects.toMatchObject({ code: 'USAGE' })
})

test('a name that a list could not show is no operator’s', () => {
  for (const name of ['maryam@ops', 'مریم@ops', 'omid.k']) assertOperatorName(name)
  for (const name of ['', ' ', 'x\u001b[2J', '--json', 'a b', 'a'.repeat(65)])
    expect(() => assertOperatorName(name)).toThrow(/no operator's name/)
})

test('an approval opens one operation of another operator, once, for its plan and context, within its time', async () => {
  const { db } = database
  await using keyStore = await store()
  const { publicJwk } = await keyStore.generate('EdDSA')
  await addOperator({ db }, { name: 'maryam@ops', publicJwk, by: 'root' })
  const ask = {
    operator: 'maryam@ops',
    planHash: PLAN,
    context: 'staging',
    reason: 'read it',
    lifetimeMs: 60_000,
  }
  const own = { db, keyStore: async () => keyStore }
  const { approval } = await createApproval(own, ask)
  const use = (over: Partial<Parameters<typeof acceptApproval>[1]> = {}) =>
    acceptApproval(
      { db },
      { approval, planHash: PLAN, context: 'staging', actor: 'ahmad@ops', runId: RUN, ...over },
    )

  await expect(use({ actor: 'maryam@ops' })).rejects.toThrow(/may not approve their own/)
  await expect(use({ planHash: 'f'.repeat(64) })).rejects.toThrow(/it is for plan/)
  await expect(use({ context: 'production' })).rejects.toThrow(/for the context "staging"/)
  await expect(use({ approval: 'nonsense' })).rejects.toThrow(/no JWS/)
  const [header, , signature] = approval.split('.')
  const forged = Buffer.from(JSON.stringify({ iss: 'maryam@ops', planHash: PLAN })).toString('base64url')
  await expect(use({ approval: `${header}.${forged}.${signature}` })).rejects.toThrow(
    /signature does not hold/,
  )
  const stranger = await keyStore.generate('ES256')
  const strange = await signJws({ keyStore }, { key: stranger, typ: 'tabib-approval+jws', payload: {} })
  await expect(use({ approval: strange })).rejects.toThrow(/no registered operator/)
  const key = await keyStore.find(publicJwk.kid)
  const otherKind = await signJws({ keyStore }, { key, typ: 'JWT', payload: {} })
  await expect(use({ approval: otherKind })).rejects.toThrow(/it is a "JWT"/)
  const past = await createApproval(own, { ...ask, lifetimeMs: 0 })
  await expect(use({ approval: past.approval })).rejects.toThrow(/its time ended/)
  // Whoever can sign can write any time into it, with or without our command.
  const years = await createApproval(own, { ...ask, lifetimeMs: 400 * 86_400_000 })
  await expect(use({ approval: years.approval })).rejects.toThrow(/a day is the longest/)
  await expect(verifyApproval(years.approval, publicJwk)).rejects.toThrow(/a day is the longest/)
  const { claims } = years
  const postdated = await signJws(
    { keyStore },
    { key, typ: 'tabib-approval+jws', payload: { ...claims, iat: claims.exp - 60 } },
  )
  await expect(use({ approval: postdated })).rejects.toThrow(/a day is the longest/)
  const proof = await proveActor(own, { actor: 'maryam@ops', planHash: PLAN, context: 'staging', runId: RUN })
  await expect(use({ approval: proof })).rejects.toThrow(/it is a "tabib-operation\+jws"/)

  expect(await use()).toBe('maryam@ops')
  await expect(use()).rejects.toThrow(/used before/)
})

test('who acts proves it with the key that is registered for them, or nothing goes', async () => {
  const { db } = database
  await using keyStore = await store()
  const omar = await keyStore.generate('ES256')
  await addOperator({ db }, { name: 'omar@ops', publicJwk: omar.publicJwk, by: 'root' })
  const prove = (actor: string, keyStore: () => Promise<KeyStore>) =>
    proveActor({ db, keyStore }, { actor, planHash: PLAN, context: 'staging', runId: RUN })

  const proof = await prove('omar@ops', async () => keyStore)
  const { payload } = await compactVerify(proof, await importJWK(omar.publicJwk))
  expect(JSON.parse(new TextDecoder().decode(payload))).toMatchObject({
    iss: 'omar@ops',
    planHash: PLAN,
    context: 'staging',
    runId: RUN,
  })

  const unproved = { code: 'OPERATOR_UNPROVED', exitCode: 4 }
  await expect(prove('nobody@ops', async () => keyStore)).rejects.toMatchObject(unproved)
  await using others = await openKeyStore({ url: `file:${folder}/others`, secretFile, fetch })
  await expect(prove('omar@ops', async () => others)).rejects.toMatchObject(unproved)
  const none = async () => {
    throw new TabibError('CONFIG_INVALID', 'no key store is configured')
  }
  await expect(prove('omar@ops', none)).rejects.toMatchObject(unproved)
  // A store that answers with another key than it was asked for.
  const other = await keyStore.generate('ES256')
  const lying = { ...keyStore, find: async () => other }
  await expect(prove('omar@ops', async () => lying)).rejects.toMatchObject(unproved)
  const away = async () => {
    throw new TabibError('KEY_STORE_UNREACHABLE', 'away')
  }
  await expect(prove('omar@ops', away)).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
})

test('a removed operator counts for nothing from then on, and what they approved before still does', async () => {
  const { db } = database
  await using keyStore = await store()
  const systems = { db, keyStore: async () => keyStore }
  const { publicJwk } = await keyStore.generate('ES256')
  const { kid } = publicJwk
  const zahra = { name: 'zahra@ops', publicJwk, by: 'root' }
  await addOperator({ db }, zahra)
  const consent = () =>
    createApproval(systems, {
      ...{ operator: 'zahra@ops', planHash: PLAN, context: 'staging', reason: 'read', lifetimeMs: 60_000 },
    })
  const [used, unused] = [await consent(), await consent()]
  const opening = { planHash: PLAN, context: 'staging', actor: 'ahmad@ops' }
  await acceptApproval({ db }, { approval: used.approval, ...opening, runId: RUN })
  const [{ beforeS }] = (await db.query<{ beforeS: number }>(
    'select extract(epoch from clock_timestamp())::float8 as "beforeS"',
  )) as [{ beforeS: number }]

  const others = (await listOperators({ db })).length - 1
  await expect(planRemoval({ db }, { name: 'zahra@ops', least: others + 1 })).rejects.toMatchObject({
    code: 'LAST_OPERATOR',
    exitCode: 5,
  })
  await expect(planRemoval({ db }, { name: 'nobody@ops', least: 1 })).rejects.toMatchObject({
    code: 'NOT_FOUND',
  })
  const removal = { name: 'zahra@ops', kid, least: 1, by: 'root' }
  expect(await removeOperator({ db }, removal)).toEqual({ removed: true })
  expect(await removeOperator({ db }, removal)).toEqual({ removed: false })

  const use = acceptApproval({ db }, { approval: unused.approval, ...opening, runId: RUN })
  await expect(use).rejects.toThrow(/zahra@ops was removed from the operators at/)
  expect(await judgeApproval({ db }, { approval: used.approval, ...opening }, beforeS)).toMatchObject({
    iss: 'zahra@ops',
  })
  await expect(consent()).rejects.toMatchObject({ code: 'OPERATOR_UNPROVED' })
  expect((await operatorKeys({ db })).keys.map((one) => one.kid)).not.toContain(kid)
  // The key is nobody's again; the name may have another.
  await expect(addOperator({ db }, zahra)).rejects.toThrow(/had it and was removed/)
  await expect(addOperator({ db }, { ...zahra, name: 'other@ops' })).rejects.toThrow(/had it and was removed/)
  const next = await keyStore.generate('ES256')
  expect(await addOperator({ db }, { ...zahra, publicJwk: next.publicJwk })).toEqual({ added: true })
  expect(await planRemoval({ db }, { name: 'zahra@ops', least: 1 })).toMatchObject({
    kid: next.publicJwk.kid,
  })
})

test('of two operators who remove each other at once one is left', async () => {
  const { db } = database
  await using keyStore = await store()
  const both = await Promise.all(
    ['one@ops', 'two@ops'].map(async (name) => {
      const { publicJwk } = await keyStore.generate('ES256')
      await addOperator({ db }, { name, publicJwk, by: 'root' })
      return { name, kid: publicJwk.kid }
    }),
  )
  const least = (await listOperators({ db })).length - 1
  const done = await Promise.allSettled(
    both.map((one) => removeOperator({ db }, { ...one, least, by: 'root' })),
  )
  expect(done.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
  expect(await listOperators({ db })).toHaveLength(least)
})

test('the commands: planned by one, approved by another, both proved and named in the trail', async () => {
  const config = join(folder, 'tabib.yaml')
  await writeFile(
    config,
    `contexts:
  clinic:
    approvals: required
    database: { url: '${database.url('tabib')}' }
  setup:
    database: { url: '${database.url('tabib')}' }
`,
  )
  /** Everybody has a key store of their own. */
  const tabibFrom = (store: string, actor: string, context: string, ...argv: string[]) =>
    runLine([...argv, '--context', context], {
      TABIB_CONFIG: config,
      TABIB_ACTOR: actor,
      TABIB_OPERATOR_KEY_STORE: `file:${folder}/${store}`,
      TABIB_OPERATOR_KEY_STORE_SECRET_FILE: secretFile,
    })
  const tabib = (actor: string, context: string, ...argv: string[]) =>
    tabibFrom(actor, actor, context, ...argv)
  const add = (name: string, ...more: string[]) =>
    ['operator', 'add', name, '--confirm', name, '--reason', 'on call', ...more] as const
  const added = await tabib('nadia@ops', 'setup', ...add('nadia@ops', '--json'))
  expect(added.exitCode, added.stderr).toBe(0)
  const { kid, publicJwk } = JSON.parse(added.stdout).result
  const again = await tabib('nadia@ops', 'setup', ...add('nadia@ops', '--json'))
  expect(JSON.parse(again.stdout).result).toMatchObject({ added: false, kid })
  expect((await tabib('root', 'setup', 'operator', 'list')).stdout).toContain(kid)

  const refused = await tabib('ahmad@ops', 'clinic', ...add('omid@ops', '--json'))
  expect(refused.exitCode).toBe(5)
  const { error } = JSON.parse(refused.stdout)
  expect(error.code).toBe('APPROVAL_REQUIRED')
  const file = join(folder, 'approval.jws')
  const consent = ['approval', 'create', error.context.planHash, '--reason', 'ok', '--file', file] as const
  expect((await tabib('ahmad@ops', 'clinic', ...consent)).exitCode).toBe(4)
  expect((await tabib('nadia@ops', 'clinic', ...consent)).exitCode).toBe(0)
  await writeFile(join(folder, 'nadia.jwk'), JSON.stringify(publicJwk))
  const verify = ['approval', 'verify', file, '--public-key', join(folder, 'nadia.jwk')] as const
  expect((await tabib('anyone', 'setup', ...verify)).stdout).toContain('nadia@ops approved plan')

  // Nadia, with her one key, may not go on under any name: not her own, not a made-up one, not Ahmad's.
  const go = add('omid@ops', '--approval', file)
  expect((await tabib('nadia@ops', 'clinic', ...go)).stderr).toContain('may not approve their own')
  const madeUp = await tabibFrom('nadia@ops', 'somebody@ops', 'clinic', ...go)
  expect(madeUp.exitCode).toBe(4)
  expect(madeUp.stderr).toContain('somebody@ops is no registered operator')
  const ahmad = await tabib('ahmad@ops', 'setup', ...add('ahmad@ops'))
  expect(ahmad.exitCode, ahmad.stderr).toBe(0)
  const asAhmad = await tabibFrom('nadia@ops', 'ahmad@ops', 'clinic', ...go)
  expect(asAhmad.exitCode).toBe(4)
  expect(asAhmad.stderr).toContain('cannot sign as ahmad@ops')

  // None of these used it up.
  const done = await tabib('ahmad@ops', 'clinic', ...go)
  expect(done.exitCode, done.stderr).toBe(0)
  const twice = await tabib('ahmad@ops', 'clinic', ...go)
  expect(twice.exitCode).toBe(4)
  expect(twice.stderr).toContain('used before')
  const trail = await database.db.query<{ record: Record<string, string> }>(
    `select record from tabib.audit where record->>'actorProof' is not null order by seq`,
  )
  expect(trail.map(({ record }) => [record.command, record.phase, record.actor, record.approver])).toEqual([
    ['approval create', 'before', 'nadia@ops', undefined],
    ['approval create', 'after', 'nadia@ops', undefined],
    ['operator add', 'before', 'ahmad@ops', 'nadia@ops'],
    ['operator add', 'after', 'ahmad@ops', 'nadia@ops'],
  ])

  const remove = ['operator', 'remove', 'omid@ops', '--json'] as const
  const said = async (context: string, ...argv: string[]) =>
    JSON.parse((await tabib('ahmad@ops', context, ...argv)).stdout)
  expect(await said('setup', ...remove)).toMatchObject({ error: { code: 'CONFIRMATION_REQUIRED' } })
  const sure = [...remove, '--confirm', 'omid@ops', '--reason', 'has left'] as const
  expect(await said('clinic', ...sure)).toMatchObject({ error: { code: 'APPROVAL_REQUIRED' } })
  expect(await said('setup', ...sure)).toMatchObject({ result: { removed: true } })
  expect(await said('setup', ...remove)).toMatchObject({ status: 'ok', result: { removed: false } })
})
