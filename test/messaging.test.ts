import { randomUUID } from 'node:crypto'
import { beforeAll, expect, test } from 'vitest'
import { addParticipant } from '../src/domain/messaging/add-participant.ts'
import { foreignParticipants } from '../src/domain/messaging/foreign-participants.ts'
import { asTenant } from '../src/domain/sessions/tenant.ts'
import { useDatabase } from './support/database.ts'

const database = useDatabase()
const [mine, theirs] = [randomUUID(), randomUUID()]
const ids = { thread: '', contact: '', stranger: '' }

const insert = async (tenantId: string, sql: string): Promise<string> => {
  const [row] = await asTenant(database.service, tenantId, (tx) => tx.query<{ id: string }>(sql, [tenantId]))
  return row!.id
}

beforeAll(async () => {
  for (const id of [mine, theirs]) {
    await database.db.query(
      `insert into tabib.tenant (id, slug, name, region, currency) values ($1::uuid, $1::text, 'a clinic', 'AF', 'AFN')`,
      [id],
    )
  }
  const contact =
    'insert into communication.contact (tenant_id, person_id) values ($1, gen_random_uuid()) returning id'
  ids.thread = await insert(mine, 'insert into communication.thread (tenant_id) values ($1) returning id')
  ids.contact = await insert(mine, contact)
  ids.stranger = await insert(theirs, contact)
})

test('a contact of the tenant joins a thread, and twice is once', async () => {
  const participant = { tenantId: mine, threadId: ids.thread, contactId: ids.contact }
  await addParticipant(database, participant)
  await addParticipant(database, participant)
  const rows = await asTenant(database.service, mine, (tx) =>
    tx.query('select from communication.thread_participant'),
  )
  expect(rows).toHaveLength(1)
  expect(await foreignParticipants(database)).toEqual({ refused: 0, tenants: [], present: 0 })
})

test('one of another tenant is refused in the words for one that is nowhere, and put on record', async () => {
  const add = (contactId: string) =>
    addParticipant(database, { tenantId: mine, threadId: ids.thread, contactId }).catch(
      ({ code, message }) => `${code} ${message.replace(contactId, '…')}`,
    )
  const nowhere = await add(randomUUID())
  expect(nowhere).toMatch(/^NOT_FOUND/)
  expect(await add(ids.stranger)).toBe(nowhere)
  expect(await foreignParticipants(database)).toEqual({ refused: 2, tenants: [mine], present: 0 })
})

test.each([
  ['for its own tenant, by the key', () => mine, '23503'],
  ['for the other tenant, by row-level security', () => theirs, 'NOT_AUTHORISED'],
])('an application that forgets to look is refused %s', async (_how, tenantOfRow, code) => {
  await expect(
    asTenant(database.service, mine, (tx) =>
      tx.query(
        'insert into communication.thread_participant (tenant_id, thread_id, contact_id) values ($1, $2, $3)',
        [tenantOfRow(), ids.thread, ids.stranger],
      ),
    ),
  ).rejects.toMatchObject({ code })
})
