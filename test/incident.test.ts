import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { openPager, type Pager } from '../src/adapters/pager/client.ts'
import { ackIncident } from '../src/domain/incident/ack.ts'
import { deliverPages } from '../src/domain/incident/deliver.ts'
import { listIncidents, showIncident } from '../src/domain/incident/list.ts'
import { raiseIncident } from '../src/domain/incident/raise.ts'
import { resolveByKey, resolveIncident } from '../src/domain/incident/resolve.ts'
import { inFolder } from '../src/sandbox/folder.ts'
import { requirePrograms } from '../src/sandbox/servers/find.ts'
import { freePort, type Server as PrivateServer, startServerProcess } from '../src/sandbox/servers/process.ts'
import { useDatabase } from './support/database.ts'
import { runLine } from './support/line.ts'

const database = useDatabase()

beforeEach(async () => {
  await database.owner.query('delete from tabib.incident')
})

const poison = {
  dedupeKey: 'billing/FM-18:9f2c',
  severity: 'page' as const,
  mode: 'billing/FM-18',
  service: 'billing' as const,
  title: 'An event was quarantined',
  detail: { fingerprint: '9f2c' },
  runbook: 'runbooks/billing/fm-18-poison.md',
}

const dueAgain = () => database.owner.query('update tabib.incident set next_page_at = now()')

describe('an incident', () => {
  test('is opened once, and counts further reports', async () => {
    const { db } = database
    const reports = await Promise.all(Array.from({ length: 20 }, () => raiseIncident(db, poison)))
    expect(reports.filter(({ opened }) => opened)).toHaveLength(1)
    expect(new Set(reports.map(({ id }) => id)).size).toBe(1)
    expect(await listIncidents({ db })).toMatchObject([
      { occurrences: 20, state: 'open', mode: 'billing/FM-18' },
    ])
  })

  test('is not opened by a transaction that rolls back', async () => {
    const { db } = database
    const rolledBack = db.transaction(async (tx) => {
      await raiseIncident(tx, poison)
      throw new Error('no')
    })
    await expect(rolledBack).rejects.toThrow('no')
    expect(await listIncidents({ db }, { state: 'all' })).toEqual([])
  })

  test('opens anew after it was resolved', async () => {
    const { db } = database
    const first = await raiseIncident(db, poison)
    expect(
      await resolveByKey(db, { dedupeKey: poison.dedupeKey, by: 'tabib', resolution: 'quiet again' }),
    ).toBe(true)
    expect(
      await resolveByKey(db, { dedupeKey: poison.dedupeKey, by: 'tabib', resolution: 'quiet again' }),
    ).toBe(false)
    const second = await raiseIncident(db, poison)
    expect(second).toMatchObject({ opened: true })
    expect(second.id).not.toBe(first.id)
    expect(await listIncidents({ db }, { state: 'all' })).toHaveLength(2)
  })

  test('is acknowledged and resolved once, by the first who does', async () => {
    const { db } = database
    const { id } = await raiseIncident(db, poison)
    expect(await ackIncident({ db }, { id, by: 'laila' })).toMatchObject({ state: 'acked', ackedBy: 'laila' })
    expect(await ackIncident({ db }, { id, by: 'ahmad' })).toMatchObject({ ackedBy: 'laila' })
    await resolveIncident({ db }, { id, by: 'laila', resolution: 'redriven' })
    expect(await resolveIncident({ db }, { id, by: 'ahmad' })).toMatchObject({
      state: 'resolved',
      resolvedBy: 'laila',
      resolution: 'redriven',
    })
    await expect(ackIncident({ db }, { id, by: 'ahmad' })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await expect(showIncident({ db }, 'nonsense')).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })
})

describe('paging through a webhook', () => {
  let receiver: Server
  let folder: string
  let pager: Pager
  let received: { body: Record<string, unknown>; headers: IncomingMessage['headers'] }[] = []
  let answer: (response: ServerResponse) => void

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tabib-pager-'))
    await writeFile(join(folder, 'token'), 's3cret\n')
    receiver = createServer(async (request, response) => {
      let text = ''
      for await (const chunk of request) text += chunk
      received.push({ body: JSON.parse(text), headers: request.headers })
      answer(response)
    })
    await new Promise<void>((listening) => receiver.listen(0, '127.0.0.1', listening))
    const webhookUrl = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/page`
    pager = openPager({ fetch, webhookUrl, webhookTokenFile: join(folder, 'token'), timeoutMs: 500 })
  })
  afterAll(async () => {
    receiver.closeAllConnections()
    receiver.close()
    await rm(folder, { recursive: true })
  })
  beforeEach(() => {
    received = []
    answer = (response) => response.writeHead(202).end()
  })

  test('pages each open incident once, however often and by however many it is run', async () => {
    const { db } = database
    const { id } = await raiseIncident(db, poison)
    await raiseIncident(db, { ...poison, dedupeKey: 'a ticket', severity: 'ticket' })
    const passes = await Promise.all([1, 2, 3].map(() => deliverPages({ db, pager })))
    expect(passes.reduce((sum, { paged }) => sum + paged, 0)).toBe(1)
    await raiseIncident(db, poison)
    await deliverPages({ db, pager })
    expect(received).toHaveLength(1)
    expect(received[0]?.body).toMatchObject({
      status: 'firing',
      incidentId: id,
      mode: 'billing/FM-18',
      resolvedAt: null,
    })
    expect(received[0]?.headers).toMatchObject({
      authorization: 'Bearer s3cret',
      'idempotency-key': `${id}:firing`,
    })
  })

  test('does not page what somebody has taken on already', async () => {
    const { db } = database
    const { id } = await raiseIncident(db, poison)
    await ackIncident({ db }, { id, by: 'laila' })
    expect(await deliverPages({ db, pager })).toEqual({ paged: 0, resolved: 0, failure: undefined })
  })

  test('passes on the resolution of what was paged, and only of that', async () => {
    const { db } = database
    const { id } = await raiseIncident(db, poison)
    await deliverPages({ db, pager })
    const { id: unpaged } = await raiseIncident(db, { ...poison, dedupeKey: 'short' })
    for (const one of [id, unpaged]) await resolveIncident({ db }, { id: one, by: 'laila' })
    expect(await deliverPages({ db, pager })).toMatchObject({ paged: 0, resolved: 1 })
    expect(await deliverPages({ db, pager })).toMatchObject({ paged: 0, resolved: 0 })
    expect(received.map(({ body }) => [body.status, body.incidentId])).toEqual([
      ['firing', id],
      ['resolved', id],
    ])
  })

  test.each([
    ['refuses', (response: ServerResponse) => void response.writeHead(503).end('full'), /HTTP 503 full/],
    ['hangs up', (response: ServerResponse) => void response.destroy(), /unreachable/],
    ['does not answer', () => {}, /no answer within 500 ms/],
  ])('tries again later when the pager %s', async (_, fault, reason) => {
    const { db } = database
    const { id } = await raiseIncident(db, poison)
    answer = fault
    expect((await deliverPages({ db, pager })).failure).toMatch(reason)
    // Not due yet: a pager that is down is not hammered.
    expect(await deliverPages({ db, pager })).toEqual({ paged: 0, resolved: 0, failure: undefined })
    expect(await showIncident({ db }, id)).toMatchObject({ pagedAt: null, pageAttempts: 1 })
    answer = (response) => response.writeHead(200).end()
    await dueAgain()
    expect(await deliverPages({ db, pager })).toMatchObject({ paged: 1, failure: undefined })
  })

  test('says that the token cannot be read, without sending anything', async () => {
    const { db } = database
    await raiseIncident(db, poison)
    const blind = openPager({
      fetch,
      webhookUrl: 'http://127.0.0.1:1/',
      webhookTokenFile: join(folder, 'gone'),
    })
    expect((await deliverPages({ db, pager: blind })).failure).toMatch(/gone: ENOENT/)
  })

  test('does nothing while no pager is configured', async () => {
    const { db } = database
    const { id } = await raiseIncident(db, poison)
    await deliverPages({ db, pager: openPager({ fetch }) })
    expect(await showIncident({ db }, id)).toMatchObject({ pagedAt: null, pageAttempts: 0 })
  })
})

describe('paging through a real Alertmanager', () => {
  let alertmanager: PrivateServer
  let url: string

  beforeAll(async () => {
    const { alertmanager: command } = await requirePrograms(['alertmanager'])
    alertmanager = await inFolder(undefined, async (folder) => {
      const dir = await folder.make('alertmanager')
      const config = join(dir, 'config.yml')
      await writeFile(config, 'route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n')
      const port = await freePort()
      return startServerProcess({
        name: 'Alertmanager',
        folder,
        port,
        proxied: false,
        disk: undefined,
        command,
        args: [
          `--config.file=${config}`,
          `--storage.path=${join(dir, 'data')}`,
          `--web.listen-address=127.0.0.1:${port}`,
          '--cluster.listen-address=',
        ],
        dir,
        ready: /msg="?Listening/,
        stopSignal: 'SIGTERM',
      })
    })
    url = `http://127.0.0.1:${alertmanager.port}`
  })
  afterAll(() => alertmanager?.[Symbol.asyncDispose]())

  const alerts = async (): Promise<
    { labels: Record<string, string>; annotations: Record<string, string>; endsAt: string }[]
  > => (await fetch(`${url}/api/v2/alerts`)).json() as Promise<never>

  test('an incident is one alert that lasts until it is resolved', async () => {
    const { db } = database
    const pager = openPager({ fetch, alertmanagerUrl: `${url}/` })
    const { id } = await raiseIncident(db, poison)
    expect(await deliverPages({ db, pager })).toMatchObject({ paged: 1, failure: undefined })
    const [alert, ...others] = await alerts()
    expect(others).toEqual([])
    expect(alert?.labels).toEqual({
      alertname: 'billing/FM-18',
      incident: id,
      severity: 'page',
      service: 'billing',
    })
    expect(alert?.annotations).toMatchObject({
      runbook: poison.runbook,
      command: `tabib incident show ${id}`,
    })
    expect(new Date(alert!.endsAt).getTime()).toBeGreaterThan(Date.now() + 365 * 86_400_000)

    // A crash between the call and the mark repeats the call.
    await database.owner.query('update tabib.incident set paged_at = null')
    expect(await deliverPages({ db, pager })).toMatchObject({ paged: 1 })
    expect(await alerts()).toHaveLength(1)

    await resolveIncident({ db }, { id, by: 'laila' })
    expect(await deliverPages({ db, pager })).toMatchObject({ resolved: 1, failure: undefined })
    expect(await alerts()).toEqual([])
  })
})

describe('tabib incident', () => {
  const tabib = (...argv: string[]) =>
    runLine(['incident', ...argv, '--json'], {
      TABIB_DATABASE_URL: database.url('tabib'),
      TABIB_ACTOR: 'laila@ops',
    })

  test('lists, shows, acknowledges and resolves, and leaves the trail of it', async () => {
    const { db } = database
    const { id } = await raiseIncident(db, poison)
    expect(JSON.parse((await tabib('list')).stdout)).toMatchObject({
      status: 'ok',
      result: [{ id, state: 'open' }],
    })
    expect(JSON.parse((await tabib('show', id)).stdout).result).toMatchObject({
      id,
      detail: { fingerprint: '9f2c' },
    })
    expect(JSON.parse((await tabib('ack', id)).stdout).result).toMatchObject({
      state: 'acked',
      ackedBy: 'laila@ops',
    })
    expect(JSON.parse((await tabib('resolve', id, '--reason', 'redriven')).stdout).result).toMatchObject({
      state: 'resolved',
      resolution: 'redriven',
    })
    const trail = await db.query<{ record: object }>('select record from tabib.audit order by seq')
    expect(trail.map(({ record }) => record)).toMatchObject([
      { phase: 'before', command: 'incident ack', incident: id, actor: 'laila@ops' },
      { phase: 'after', outcome: 'ok', exitCode: 0 },
      { phase: 'before', command: 'incident resolve', reason: 'redriven' },
      { phase: 'after', outcome: 'ok' },
    ])
  })

  test('an incident that does not exist exits 2 and says how to find one', async () => {
    const { exitCode, stdout } = await tabib('ack', '00000000-0000-0000-0000-000000000000')
    expect(exitCode).toBe(2)
    expect(JSON.parse(stdout).error).toMatchObject({
      code: 'NOT_FOUND',
      actions: ['tabib incident list --state all'],
    })
  })
})
