import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type KeyStore, openKeyStore } from '../../src/adapters/keystore/client.ts'
import { createApproval } from '../../src/domain/approval/create.ts'
import type { OperatorKey } from '../../src/domain/approval/operator.ts'
import { readJournal, recordBrokenGlass } from '../../src/domain/residency/journal.ts'

const PLAN = 'a'.repeat(64)
let folder: string
let store: KeyStore
const operators: OperatorKey[] = []
const keyStore = async () => store
const journal = () => join(folder, 'journal')

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-journal-'))
  await writeFile(join(folder, 'secret'), randomBytes(24).toString('base64'), { mode: 0o600 })
  store = await openKeyStore({ url: `file:${folder}/keys`, secretFile: join(folder, 'secret'), fetch })
  for (const name of ['nasrin@ops', 'omid@ops']) {
    const { publicJwk } = await store.generate('ES256')
    operators.push({ ...publicJwk, name })
  }
})
afterAll(async () => {
  await store[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})
beforeEach(() => rm(journal(), { recursive: true, force: true }))

const consent = (operator: string, change: { planHash?: string; lifetimeMs?: number } = {}) =>
  createApproval(
    { operators, keyStore },
    { operator, planHash: PLAN, context: 'clinic', reason: 'agreed', lifetimeMs: 60_000, ...change },
  ).then(({ approval }) => approval)
const record = (actor: string, approval: string) =>
  recordBrokenGlass({ operators, keyStore }, journal(), {
    actor,
    approval,
    runId: randomUUID(),
    context: 'clinic',
    target: 'herat-dr',
    planHash: PLAN,
    reason: 'quake',
    against: [{ object: 'cluster herat-dr', message: 'it has no member' }],
    argsRedacted: [],
    version: '0.0.0',
  })

test('only two people write into it, each by a key of their own, and each consent once', async () => {
  const approval = await consent('nasrin@ops')
  await expect(record('nasrin@ops', approval)).rejects.toThrow('may not approve their own operation')
  await expect(record('stranger@ops', approval)).rejects.toMatchObject({ code: 'OPERATOR_UNPROVED' })
  const other = await consent('nasrin@ops', { planHash: 'b'.repeat(64) })
  await expect(record('omid@ops', other)).rejects.toThrow('it is for plan')
  await expect(record('omid@ops', await consent('nasrin@ops', { lifetimeMs: 0 }))).rejects.toThrow(
    'its time ended',
  )
  // Not the last letter, whose lowest bits say nothing.
  const forged = approval.replace(/\.(.)([^.]*)$/, (_, first, rest) => `.${first === 'A' ? 'B' : 'A'}${rest}`)
  await expect(record('omid@ops', forged)).rejects.toMatchObject({
    code: 'APPROVAL_INVALID',
  })
  await expect(readJournal({ operators }, journal())).resolves.toEqual({ records: [], broken: [] })
  await record('omid@ops', approval)
  await expect(record('omid@ops', approval)).rejects.toThrow('the journal has used it before')
})

test('what several write at once is all there, one after the other', async () => {
  const approvals = await Promise.all(Array.from({ length: 6 }, () => consent('nasrin@ops')))
  await Promise.all(approvals.map((approval) => record('omid@ops', approval)))
  const { records, broken } = await readJournal({ operators }, journal())
  expect(records.map(({ name }) => name)).toEqual([1, 2, 3, 4, 5, 6].map((n) => `00000${n}.jws`))
  expect(broken).toEqual([])
  expect((await readdir(journal())).filter((name) => name.endsWith('.draft'))).toEqual([])
})

test('no record can be changed, moved, taken out or put in without its being seen', async () => {
  for (const _ of [1, 2, 3, 4]) await record('omid@ops', await consent('nasrin@ops'))
  const names = (await readdir(journal())).sort()
  const texts = await Promise.all(names.map((name) => readFile(join(journal(), name), 'utf8')))
  const believed = async (changed: readonly string[]) => {
    for (const name of await readdir(journal())) await rm(join(journal(), name))
    for (const [i, text] of changed.entries()) await writeFile(join(journal(), names[i]!), text)
    return (await readJournal({ operators }, journal())).broken.length === 0
  }
  expect(await believed(texts)).toBe(true)
  const at = fc.nat(3)
  const edit = fc.oneof(
    fc.tuple(at, fc.nat(), fc.constantFrom(...'AZaz09-_.')).map(([i, place, letter]) => {
      const text = texts[i]!
      // The last letter of a signature has bits that say nothing.
      const p = place % (text.length - 2)
      return texts.with(i, text.slice(0, p) + letter + text.slice(p + 1))
    }),
    fc.tuple(at, at).map(([i, j]) => texts.with(i, texts[j]!).with(j, texts[i]!)),
    fc.tuple(at, at).map(([i, j]) => texts.with(i, texts[j]!)),
    fc.nat(2).map((i) => texts.toSpliced(i, 1)),
  )
  await fc.assert(
    fc.asyncProperty(edit, async (changed) => {
      const isSame = changed.every((text, i) => text === texts[i]) && changed.length === texts.length
      expect(await believed(changed)).toBe(isSame)
    }),
    { numRuns: 60 },
  )
})
