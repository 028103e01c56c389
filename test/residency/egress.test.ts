import { randomUUID } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { addressWithin } from '../../src/adapters/http/client.ts'
import { type App, createApp, createLogger } from '../../src/app.ts'
import egressRefused from '../../src/catalog/billing/fm-21-cross-border-transfer.ts'
import { readStatus } from '../../src/catalog/status.ts'
import { loadConfig } from '../../src/config.ts'
import { deliverPages } from '../../src/domain/incident/deliver.ts'
import { listIncidents } from '../../src/domain/incident/list.ts'
import { raiseIncident } from '../../src/domain/incident/raise.ts'
import { allowRegion } from '../../src/domain/residency/allow.ts'
import { useDatabase } from '../support/database.ts'

const database = useDatabase()
let folder: string
/** A listener a region: 127.0.0.1 in Kabul, .2 in Herat, .3 in neither. */
const listeners: Server[] = []
const received: Record<string, unknown[]> = {}
const urlOf = (index: number) =>
  `http://127.0.0.${index}:${(listeners[index - 1]!.address() as AddressInfo).port}/`

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-egress-'))
  for (const address of ['127.0.0.1', '127.0.0.2', '127.0.0.3']) {
    const server = createServer(async (request, response) => {
      const body = await text(request)
      received[address]!.push(body === '' ? body : JSON.parse(body))
      response.end()
    })
    await new Promise<void>((listening) => server.listen(0, address, listening))
    listeners.push(server)
  }
})
afterAll(async () => {
  for (const server of listeners) server.close().closeAllConnections()
  await rm(folder, { recursive: true })
})

async function appWith(settings: { residency?: object; pager?: object }): Promise<App> {
  const clinic = { database: { url: database.url('tabib') }, ...settings }
  await writeFile(join(folder, 'tabib.yaml'), stringify({ currentContext: 'clinic', contexts: { clinic } }))
  const config = loadConfig({ env: { TABIB_CONFIG: join(folder, 'tabib.yaml') }, cwd: folder })
  return createApp(config, { log: createLogger('silent') })
}

const residency = {
  regions: { kabul: ['127.0.0.1/32'], herat: ['127.0.0.2/32'] },
  platform: ['127.0.0.2/32'],
}
let kabul: string
beforeEach(async () => {
  for (const address of ['127.0.0.1', '127.0.0.2', '127.0.0.3']) received[address] = []
  await database.owner.query('delete from tabib.incident')
  kabul = randomUUID()
  await database.db.query(
    `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $2, 'Kabul', 'kabul', 'AFN')`,
    [kabul, kabul],
  )
})

describe('a request for a tenant', () => {
  test('reaches its own region, and another from the moment that it is allowed', async () => {
    await using app = await appWith({ residency })
    const fetch = app.fetch(kabul)
    await fetch(urlOf(1))
    await expect(fetch(urlOf(2))).rejects.toMatchObject({ code: 'EGRESS_REFUSED' })
    await allowRegion(database, { tenantId: kabul, region: 'herat', allow: true })
    await fetch(urlOf(2))
    await allowRegion(database, { tenantId: kabul, region: 'herat', allow: false })
    // The connection that stands from before is of no use now.
    await expect(fetch(urlOf(2))).rejects.toMatchObject({ code: 'EGRESS_REFUSED' })
    expect(received).toMatchObject({ '127.0.0.1': [''], '127.0.0.2': [''] })
  })

  test('reaches nothing for a tenant that nobody knows, or while the database is away', async () => {
    await using app = await appWith({ residency })
    for (const index of [1, 2]) {
      await expect(app.fetch(randomUUID())(urlOf(index))).rejects.toMatchObject({ code: 'EGRESS_REFUSED' })
    }
    await using cut = createApp(
      { ...app.config, databaseUrl: 'postgres://tabib@127.0.0.1:14997/tabib' },
      { log: createLogger('silent') },
    )
    await expect(cut.fetch(kabul)(urlOf(1))).rejects.toMatchObject({ code: 'POSTGRES_UNREACHABLE' })
    expect(received['127.0.0.1']).toEqual([])
  })

  test('is not bounded where no regions are configured, and nobody says that all is well', async () => {
    await using app = await appWith({})
    await app.fetch(kabul)(urlOf(3))
    expect(received['127.0.0.3']).toHaveLength(1)
    expect(await readStatus(app, [egressRefused])).toMatchObject([{ verdict: 'unknown' }])
    await using bounded = await appWith({ residency })
    expect(await readStatus(bounded, [egressRefused])).toMatchObject([{ verdict: 'ok' }])
  })

  test('that was refused is one incident for each host, for ops and compliance', async () => {
    {
      await using app = await appWith({ residency })
      for (const index of [2, 3, 3])
        await app
          .fetch(kabul)(urlOf(index))
          .catch(() => {})
    }
    expect(await listIncidents(database)).toMatchObject([
      {
        mode: 'billing/FM-21',
        severity: 'page',
        occurrences: 2,
        detail: { address: '127.0.0.3', region: null, tenantId: kabul, notify: ['ops', 'compliance'] },
      },
      { occurrences: 1, detail: { address: '127.0.0.2', region: 'herat' } },
    ])
  })
})

describe('the pager', () => {
  const poison = {
    dedupeKey: 'k',
    severity: 'page',
    mode: 'billing/FM-18',
    title: 'An event was quarantined',
  } as const

  test('pages within the platform’s networks, and says who must hear of a refused connection', async () => {
    {
      await using app = await appWith({ residency })
      await app
        .fetch(kabul)(urlOf(3))
        .catch(() => {})
    }
    await using app = await appWith({ residency, pager: { webhookUrl: urlOf(2) } })
    expect(await deliverPages(app)).toMatchObject({ paged: 1, failure: undefined })
    expect(received['127.0.0.2']).toMatchObject([{ mode: 'billing/FM-21', notify: ['ops', 'compliance'] }])
  })

  test('outside of them is refused, told of, and does not wait for itself', async () => {
    await raiseIncident(database.db, poison)
    for (const _pass of [1, 2]) {
      await using app = await appWith({ residency, pager: { webhookUrl: urlOf(3) } })
      expect((await deliverPages(app)).failure).toMatch(/127.0.0.3 is outside the networks/)
      await database.owner.query('update tabib.incident set next_page_at = now()')
    }
    expect(received['127.0.0.3']).toEqual([])
    const modes = (await listIncidents(database)).map(({ mode }) => mode)
    expect(modes.sort()).toEqual(['billing/FM-18', 'billing/FM-21'])
  })
})

test('regions whose networks overlap are refused: an address would be in both', async () => {
  const overlapping = { regions: { kabul: ['10.0.0.0/8'], herat: ['10.30.0.0/16'] } }
  await expect(appWith({ residency: overlapping })).rejects.toThrow(
    /10.0.0.0\/8 of kabul and 10.30.0.0\/16 of herat/,
  )
})

test('an IPv4 address is within a network exactly when their leading bits agree', () => {
  const address = fc.integer({ min: 0, max: 0xffffffff })
  const dotted = (n: number) => [24, 16, 8, 0].map((shift) => (n >>> shift) & 255).join('.')
  const bits = (n: number) => (n >>> 0).toString(2).padStart(32, '0')
  const near = fc
    .tuple(address, fc.integer({ min: 0, max: 31 }))
    .map(([base, bit]) => [base, (base ^ (1 << bit)) >>> 0] as const)
  fc.assert(
    fc.property(
      fc.oneof(fc.tuple(address, address), near),
      fc.integer({ min: 1, max: 32 }),
      ([base, one], prefix) => {
        const agree = bits(base).slice(0, prefix) === bits(one).slice(0, prefix)
        const network = [`${dotted(base)}/${prefix}`]
        return (
          addressWithin(dotted(one), network) === agree &&
          addressWithin(`::ffff:${dotted(one)}`, network) === agree
        )
      },
    ),
  )
})
