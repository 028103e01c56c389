import { join } from 'node:path'
import { execa } from 'execa'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { type Database, openDatabase } from '../src/adapters/postgres/client.ts'
import { appendAudit } from '../src/domain/audit/append.ts'
import { listAudit } from '../src/domain/audit/list.ts'
import { auditOperation, holdTarget, redactArgv } from '../src/domain/audit/operation.ts'
import { parseAnchor, verifyAudit } from '../src/domain/audit/verify.ts'
import { TabibError } from '../src/errors.ts'
import { packageRoot } from '../src/package-root.ts'
import { useDatabase } from './support/database.ts'

const database = useDatabase()
let db: Database
let owner: Database
beforeAll(() => {
  db = database.db
  owner = database.owner
})
beforeEach(() => tamper('truncate tabib.audit'))

const operation = {
  runId: '0d8f0a52-9f3a-4f0e-8a55-3f6f9a3d9d10',
  actor: 'ahmad@ops',
  context: 'staging',
  command: 'dlq redrive',
  argsRedacted: ['--service', 'billing'],
  targets: ['billing'],
  version: '0.1.0',
}

async function appendRecords(count: number): Promise<void> {
  for (let i = 0; i < count; i++)
    await appendAudit(db, { ...operation, phase: 'before', reason: `record ${i + 1}` })
}

// Only the owner can, and only by taking the guard away: what an intruder with the owner's rights would do.
async function tamper(...statements: string[]): Promise<void> {
  await owner.transaction(async (tx) => {
    await tx.query('alter table tabib.audit disable trigger user')
    for (const statement of statements) await tx.query(statement)
    await tx.query('alter table tabib.audit enable trigger user')
  })
}

const verdicts = async (anchor?: string) => {
  const { findings } = await verifyAudit(
    { db },
    { anchor: anchor === undefined ? undefined : parseAnchor(anchor) },
  )
  return findings.map(({ id, evidence }) => [id, evidence.seq])
}

test('an untouched trail is whole, and its head anchors it', async () => {
  expect(await verifyAudit({ db })).toEqual({ records: 0, head: undefined, findings: [] })
  await appendRecords(5)
  const { records, head, findings } = await verifyAudit({ db })
  expect(records).toBe(5)
  expect(findings).toEqual([])
  expect(await verdicts(head)).toEqual([])
})

test('appends at the same time form one chain without gaps', async () => {
  await Promise.all(
    Array.from({ length: 40 }, (_, i) => appendAudit(db, { ...operation, phase: 'before', reason: `r${i}` })),
  )
  const { records, findings } = await verifyAudit({ db })
  expect({ records, findings }).toEqual({ records: 40, findings: [] })
})

test('nobody can change, delete or truncate records, and tabib’s own role can only append', async () => {
  await appendRecords(1)
  for (const statement of [
    'update tabib.audit set record = record',
    'delete from tabib.audit',
    'truncate tabib.audit',
  ]) {
    await expect(db.query(statement)).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
    await expect(owner.query(statement)).rejects.toThrow(/append-only/)
  }
})

test('an edited record is named', async () => {
  await appendRecords(5)
  await tamper(`update tabib.audit set record = jsonb_set(record, '{actor}', '"nobody"') where seq = 3`)
  expect(await verdicts()).toEqual([['audit-edited', '3']])
})

test('an edited timestamp or run is named even when the record itself is untouched', async () => {
  await appendRecords(3)
  await tamper(`update tabib.audit set ts = ts - interval '1 day' where seq = 2`)
  expect(await verdicts()).toEqual([['audit-edited', '2']])
})

test('an edit whose hash was made to fit breaks the record after it', async () => {
  await appendRecords(4)
  await tamper(`update tabib.audit set hash = sha256(prev_hash || 'made to fit') where seq = 2`)
  expect(await verdicts()).toEqual([
    ['audit-edited', '2'],
    ['audit-unchained', '3'],
  ])
})

test('a deleted record is named, the first one too', async () => {
  await appendRecords(5)
  await tamper('delete from tabib.audit where seq = 3')
  expect(await verdicts()).toEqual([['audit-deleted', '3']])
  await tamper('delete from tabib.audit where seq = 1')
  expect(await verdicts()).toEqual([
    ['audit-deleted', '1'],
    ['audit-deleted', '3'],
  ])
})

test('an inserted record is named', async () => {
  await appendRecords(3)
  await tamper(
    'update tabib.audit set seq = 4 where seq = 3',
    `insert into tabib.audit select 3, ts, run_id, prev_hash, hash, record from tabib.audit where seq = 2`,
  )
  const found = await verdicts()
  expect(found.map(([, seq]) => seq)).toContain('3')
})

test('records that changed places are named', async () => {
  await appendRecords(4)
  await tamper(
    'update tabib.audit set seq = 99 where seq = 2',
    'update tabib.audit set seq = 2 where seq = 3',
    'update tabib.audit set seq = 3 where seq = 99',
  )
  const found = await verdicts()
  expect(found.map(([, seq]) => seq)).toEqual(expect.arrayContaining(['2', '3']))
})

test('a cut end shows only against an anchor', async () => {
  await appendRecords(5)
  const { head } = await verifyAudit({ db })
  await tamper('delete from tabib.audit where seq > 3')
  expect(await verdicts()).toEqual([])
  expect(await verdicts(head)).toEqual([['audit-truncated', '5']])
})

test('a trail rewritten from the start shows against an anchor', async () => {
  await appendRecords(2)
  const { head } = await verifyAudit({ db })
  await tamper('truncate tabib.audit')
  await appendRecords(3)
  expect(await verdicts()).toEqual([])
  expect(await verdicts(head)).toEqual([['audit-rewritten', '2']])
})

test('text that jsonb cannot hold does not break the chain', async () => {
  await appendAudit(db, { ...operation, phase: 'before', reason: 'nul \0 and lone \ud800 surrogate, دری' })
  expect((await verifyAudit({ db })).findings).toEqual([])
})

test('an operation leaves two records, with its outcome in the second', async () => {
  await auditOperation(db, operation, async () => 'done')
  const failing = auditOperation(db, operation, async () => {
    throw new TabibError('NATS_UNREACHABLE', 'away')
  })
  await expect(failing).rejects.toThrow('away')
  const records = await listAudit({ db }, { limit: 10 })
  expect(records.reverse()).toMatchObject([
    { seq: '1', phase: 'before', actor: 'ahmad@ops', command: 'dlq redrive', context: 'staging' },
    { seq: '2', phase: 'after', outcome: 'ok', exitCode: 0, durationMs: expect.any(Number) },
    { seq: '3', phase: 'before' },
    { seq: '4', phase: 'after', outcome: 'failed', exitCode: 3, errorCode: 'NATS_UNREACHABLE' },
  ])
})

test('work does not begin when the record before it cannot be written', async () => {
  await using away = openDatabase({ url: 'postgres://tabib@127.0.0.1:1/tabib', connectTimeoutMs: 1_000 })
  let began = false
  const refused = auditOperation(away, operation, async () => {
    began = true
  })
  await expect(refused).rejects.toMatchObject({ code: 'POSTGRES_UNREACHABLE' })
  expect(began).toBe(false)
})

test('the list filters by run, command, actor and age', async () => {
  await appendRecords(2)
  const count = async (filter: object) => (await listAudit({ db }, { limit: 10, ...filter })).length
  expect(await count({})).toBe(2)
  expect(await count({ limit: 1 })).toBe(1)
  expect(
    await count({ runId: operation.runId, command: 'dlq redrive', actor: 'ahmad@ops', sinceMs: 60_000 }),
  ).toBe(2)
  expect(await count({ command: 'dlq discard' })).toBe(0)
  expect(await count({ sinceMs: 0 })).toBe(0)
})

test('a target has one severe operation at a time, and the second operator is told who holds it', async () => {
  const mine = { target: 'dlq:billing', runId: operation.runId, actor: 'ahmad@ops', command: 'dlq discard' }
  const theirs = { ...mine, runId: 'b1a1d0a4-8f0e-4f55-9d5c-8f3c2a6d7e11', actor: 'laila@ops' }
  {
    await using _held = await holdTarget(db, mine)
    await expect(holdTarget(db, theirs)).rejects.toMatchObject({
      code: 'LOCKED',
      message: expect.stringMatching(/ahmad@ops runs "dlq discard".*0d8f0a52/),
    })
    await using _other = await holdTarget(db, { ...theirs, target: 'dlq:communication' })
  }
  await using _after = await holdTarget(db, theirs)
})

test('the lock of an operator whose process died runs out', async () => {
  const mine = { target: 'dlq:billing', runId: operation.runId, actor: 'ahmad@ops', command: 'dlq discard' }
  await using _dead = await holdTarget(db, mine)
  await db.query(`update tabib.operation_lock set expires_at = now() - interval '1 second'`)
  await using _next = await holdTarget(db, { ...mine, runId: 'b1a1d0a4-8f0e-4f55-9d5c-8f3c2a6d7e11' })
})

test('an interrupted command leaves its end in the trail, and the target free', async () => {
  const child = execa(process.execPath, [join(packageRoot(), 'test/fixture/run.js'), 'change'], {
    env: { TABIB_DATABASE_URL: database.url('tabib') },
    reject: false,
  })
  child.stderr.on('data', (chunk: Buffer) => {
    if (String(chunk).includes('changing')) child.kill('SIGINT')
  })
  expect((await child).exitCode).toBe(130)
  expect(await listAudit({ db }, { limit: 10 })).toMatchObject([
    { phase: 'after', outcome: 'failed', errorCode: 'INTERRUPTED', exitCode: 130 },
    { phase: 'before', command: 'change', reason: 'to be interrupted' },
  ])
  expect(await db.query('select target from tabib.operation_lock')).toEqual([])
})

test('secrets on the command line do not reach the trail', () => {
  expect(
    redactArgv(['--token', 'abc', '--api-secret=xyz', '--database-url', 'postgres://u:p@h/d', '--yes']),
  ).toEqual(['--token', '***', '--api-secret=***', '--database-url', 'postgres://h/d', '--yes'])
})
