import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openStatementStore, type StatementStore } from '../../src/adapters/statement-store/client.ts'
import { type S3Simulator, startS3 } from '../../src/sandbox/simulators/s3.ts'

const KEY = 'tenant/2026-10/account.pdf'
let folder: string
let s3: S3Simulator
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-store-'))
  s3 = await startS3()
  await writeFile(join(folder, 'secret'), s3.credentials, { mode: 0o600 })
})
afterAll(async () => {
  await s3[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})

const open = (url: string | undefined, secret = 'secret') =>
  openStatementStore({ url, secretFile: join(folder, secret), fetch })

async function draft(store: StatementStore, text: string) {
  const path = join(store.drafts, `test-${text.length}.pdf`)
  await writeFile(path, text)
  return { path, sha256: createHash('sha256').update(text).digest('hex'), bytes: text.length }
}

describe.each(['files', 'S3'])('a store of %s', (kind) => {
  const opened = () => open(kind === 'S3' ? s3.store : `file:${join(folder, 'statements')}`)

  test('keeps what is put last, and does not write the same again', async () => {
    const store = await opened()
    expect(await store.find(KEY)).toBeUndefined()
    const first = await draft(store, 'first')
    expect(await store.put(KEY, first)).toEqual({ written: true })
    expect(await store.put(KEY, await draft(store, 'first'))).toEqual({ written: false })
    expect(await store.find(KEY)).toEqual({ sha256: first.sha256, bytes: 5 })
    const second = await draft(store, 'second one')
    expect(await store.put(KEY, second)).toEqual({ written: true })
    expect(await store.find(KEY)).toEqual({ sha256: second.sha256, bytes: 10 })
    await store.remove(KEY)
    await store.remove(KEY)
    expect(await store.find(KEY)).toBeUndefined()
  })

  test('clears what a killed process left, and of others nothing', async () => {
    const store = await opened()
    for (const name of ['run-7-11.pdf', 'run-70-11.pdf']) await writeFile(join(store.drafts, name), 'half')
    await store.clearDrafts('run-7-')
    const left = await readdir(store.drafts)
    expect(left).toContain('run-70-11.pdf')
    expect(left).not.toContain('run-7-11.pdf')
    await store.clearDrafts('run-70-')
    expect((await stat(store.drafts)).mode & 0o077).toBe(0)
  })
})

describe('files', () => {
  test('are replaced in one step: whoever reads the old one keeps it', async () => {
    const store = await open(`file:${join(folder, 'replaced')}`)
    await store.put(KEY, await draft(store, 'old'))
    const path = join(folder, 'replaced', KEY)
    const before = await stat(path)
    await store.put(KEY, await draft(store, 'new one'))
    expect((await stat(path)).ino).not.toBe(before.ino)
    expect(await readFile(path, 'utf8')).toBe('new one')
  })

  test('lie below their folder, whatever the key says', async () => {
    const store = await open(`file:${join(folder, 'below')}`)
    await expect(store.find('../secret.pdf')).rejects.toMatchObject({ code: 'BUG' })
  })

  test('want a folder that can be used', async () => {
    await expect(open(`file:${join(folder, 'secret', 'below')}`)).rejects.toMatchObject({
      code: 'STATEMENT_STORE_UNREACHABLE',
    })
    await expect(open(`file:${join(folder, 'not', 'mounted')}`)).rejects.toThrow('ENOENT')
  })
})

describe('S3', () => {
  test('is asked again when the answer to an upload is lost, and holds one object', async () => {
    const store = await open(s3.store)
    s3.misbehave('loses the answer to an upload')
    const uploads = s3.uploads
    expect(await store.put(KEY, await draft(store, 'lost'))).toEqual({ written: true })
    expect(s3.uploads).toBe(uploads + 2)
    expect(s3.objects.get(KEY)?.bytes.toString()).toBe('lost')
    expect(s3.objects.get(KEY)?.headers['content-type']).toBe('application/pdf')
  })

  test.each([
    [{ status: 503 } as const, 'HTTP 503'],
    ['drop' as const, 'is unreachable'],
  ])('that fails (%o) is told as unreachable, which may pass', async (fault, says) => {
    const store = await open(s3.store)
    s3.misbehave(fault)
    try {
      await expect(store.put(KEY, await draft(store, 'never'))).rejects.toMatchObject({
        code: 'STATEMENT_STORE_UNREACHABLE',
        retryable: true,
        message: expect.stringContaining(says),
      })
    } finally {
      s3.misbehave(undefined)
    }
  })

  test('that refuses the credentials, or has no such bucket, is told as that', async () => {
    await writeFile(join(folder, 'other'), s3.credentials.replace(/(secret_access_key = ).*/, '$1wrong'), {
      mode: 0o600,
    })
    const forged = await open(s3.store, 'other')
    await expect(forged.put(KEY, await draft(forged, 'x'))).rejects.toMatchObject({
      code: 'NOT_AUTHORISED',
      exitCode: 4,
    })
    const elsewhere = await open(s3.store.replace('/statements?', '/elsewhere?'))
    await expect(elsewhere.put(KEY, await draft(elsewhere, 'x'))).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    })
    const nobody = await open(s3.store, 'missing')
    await expect(nobody.put(KEY, await draft(nobody, 'x'))).rejects.toMatchObject({
      code: 'STATEMENT_STORE_UNREACHABLE',
    })
  })
})

test.each([
  [undefined, 'no statement store'],
  ['/srv/statements', 'file:<folder> or s3:'],
  ['s3:http://s3.example/bucket?region=x', 'by https'],
  ['s3:https://s3.example/bucket', 'which region'],
  ['s3:https://s3.eu-central-1.amazonaws.com/', 'which bucket'],
  ['s3:https://key:secret@s3.eu-central-1.amazonaws.com/bucket', 'from its secret file'],
])('%s is no store', async (url, says) => {
  await expect(open(url)).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringContaining(says),
  })
})
