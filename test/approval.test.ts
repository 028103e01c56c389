import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openKeyStore } from '../src/adapters/keystore/client.ts'
import { acceptApproval } from '../src/domain/approval/accept.ts'
import { createApproval } from '../src/domain/approval/create.ts'
import { addOperator, parsePublicKey } from '../src/domain/approval/operator.ts'
import { signJws } from '../src/domain/keys/jws.ts'
import { packageRoot } from '../src/package-root.ts'
import { useDatabase } from './support/database.ts'

const database = useDatabase()
let folder: string
let secretFile: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-approval-'))
  secretFile = join(folder, 'secret')
  await writeFile(secretFile, randomBytes(24).toString('base64'), { mode: 0o600 })
})
afterAll(() => rm(folder, { recursive: true }))

const store = () => openKeyStore({ url: `file:${folder}/keys`, secretFile })
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
  const { approval } = await createApproval({ db, keyStore }, ask)
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
  const past = await createApproval({ db, keyStore }, { ...ask, lifetimeMs: 0 })
  await expect(use({ approval: past.approval })).rejects.toThrow(/its time ended/)

  expect(await use()).toBe('maryam@ops')
  await expect(use()).rejects.toThrow(/used before/)
})

test('the commands: registered, planned by one, approved by another, named in the trail', async () => {
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
  const tabib = (actor: string, context: string, ...argv: string[]) =>
    execa(process.execPath, [join(packageRoot(), 'bin/run.js'), ...argv, '--context', context], {
      env: {
        TABIB_CONFIG: config,
        TABIB_ACTOR: actor,
        TABIB_KEY_STORE: `file:${folder}/keys`,
        TABIB_KEY_STORE_SECRET_FILE: secretFile,
      },
      reject: false,
      stdin: 'ignore',
    })
  const add = (...more: string[]) =>
    [
      'operator',
      'add',
      'nadia@ops',
      '--confirm',
      'nadia@ops',
      '--reason',
      'on call',
      '--json',
      ...more,
    ] as const
  const added = await tabib('root', 'setup', ...add())
  expect(added.exitCode, added.stderr).toBe(0)
  const { kid, publicJwk } = JSON.parse(added.stdout).result
  expect(JSON.parse((await tabib('root', 'setup', ...add())).stdout).result).toMatchObject({
    added: false,
    kid,
  })
  expect((await tabib('root', 'setup', 'operator', 'list')).stdout).toContain(kid)

  const own = (...more: string[]) =>
    ['operator', 'add', 'omid@ops', '--confirm', 'omid@ops', '--reason', 'on call', ...more] as const
  const refused = await tabib('ahmad@ops', 'clinic', ...own('--json'))
  expect(refused.exitCode).toBe(5)
  const { error } = JSON.parse(refused.stdout)
  expect(error.code).toBe('APPROVAL_REQUIRED')
  const file = join(folder, 'approval.jws')
  const consent = [
    'approval',
    'create',
    error.context.planHash,
    '--reason',
    'agreed',
    '--file',
    file,
  ] as const
  expect((await tabib('ahmad@ops', 'clinic', ...consent)).exitCode).toBe(4)
  expect((await tabib('nadia@ops', 'clinic', ...consent)).exitCode).toBe(0)
  await writeFile(join(folder, 'nadia.jwk'), JSON.stringify(publicJwk))
  const verify = ['approval', 'verify', file, '--public-key', join(folder, 'nadia.jwk')] as const
  expect((await tabib('anyone', 'setup', ...verify)).stdout).toContain('nadia@ops approved plan')

  const done = await tabib('ahmad@ops', 'clinic', ...own('--approval', file))
  expect(done.exitCode, done.stderr).toBe(0)
  const again = await tabib('ahmad@ops', 'clinic', ...own('--approval', file))
  expect(again.exitCode).toBe(4)
  expect(again.stderr).toContain('used before')
  const trail = await database.db.query<{ record: { approver?: string } }>(
    `select record from tabib.audit where record->>'approver' is not null`,
  )
  expect(trail.map(({ record }) => record.approver)).toEqual(['nadia@ops', 'nadia@ops'])
})
