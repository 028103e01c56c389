import { createServer, type Server } from 'node:http'
import type { AddressInfo, LookupFunction } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { addressWithin, type Fetch, type Http, openHttp, type Refusal } from '../src/adapters/http/client.ts'

/** Two regions on this machine: 127.0.0.1 is inside, 127.0.0.2 is abroad. Both are real listeners. */
let inside: Server
let abroad: Server
let connections: { inside: number; abroad: number }
let redirectTo = ''

beforeAll(async () => {
  const listen = (address: string, count: () => void) =>
    new Promise<Server>((resolve) => {
      const server = createServer((request, response) => {
        if (request.url === '/away') response.writeHead(307, { location: redirectTo }).end()
        else response.end('reached')
      })
      server.on('connection', count)
      server.listen(0, address, () => resolve(server))
    })
  inside = await listen('127.0.0.1', () => connections.inside++)
  abroad = await listen('127.0.0.2', () => connections.abroad++)
})
afterAll(() => {
  for (const server of [inside, abroad]) server.close().closeAllConnections()
})
beforeEach(() => {
  connections = { inside: 0, abroad: 0 }
})

const portOf = (server: Server) => (server.address() as AddressInfo).port
const refusals: Refusal[] = []
const bounded = (http: Http, networks: readonly string[] | undefined): Fetch =>
  http.within({ networks: async () => networks, onRefused: (refusal) => refusals.push(refusal) })
const HERE = ['127.0.0.1/32', '::1/128']

describe('a connection within bounds that is no HTTP', () => {
  const connect = (host: string, networks: readonly string[] | null = HERE, lookup?: LookupFunction) => {
    const bounds = {
      networks: async () => networks ?? undefined,
      onRefused: (refusal: Refusal) => refusals.push(refusal),
    }
    const port = portOf(host.includes('.2') || host.endsWith('2') ? abroad : inside)
    return openHttp({ lookup })
      .connectWithin(bounds)({ host, port, timeoutMs: 5_000 })
      .then((socket) => {
        socket.destroy()
        return 'connected'
      })
      .catch(({ code }) => code)
  }

  test('reaches an address inside, by its number and by its name, and any where there are no bounds', async () => {
    expect(await connect('127.0.0.1')).toBe('connected')
    expect(await connect('inside.example', HERE, answering('127.0.0.1'))).toBe('connected')
    expect(await connect('127.0.0.2', null)).toBe('connected')
  })

  test('is not opened to one outside, however that is named, and is told of', async () => {
    for (const host of ['127.0.0.2', '::ffff:127.0.0.2', '2130706434'])
      expect(await connect(host), host).toBe('EGRESS_REFUSED')
    expect(await connect('abroad.example2', HERE, answering('127.0.0.2'))).toBe('EGRESS_REFUSED')
    expect(connections.abroad).toBe(0)
    expect(refusals.at(-1)).toEqual({ host: 'abroad.example2', address: '127.0.0.2' })
  })
})

describe('a fetch within bounds', () => {
  test('reaches an address inside, by its number and by its name', async () => {
    await using http = openHttp({ lookup: answering('127.0.0.1') })
    for (const host of ['127.0.0.1', 'inside.example']) {
      const response = await bounded(http, HERE)(`http://${host}:${portOf(inside)}/`)
      expect(await response.text()).toBe('reached')
    }
  })

  test.each([
    ['a plain address', '127.0.0.2'],
    ['an IPv4 address in IPv6', '[::ffff:127.0.0.2]'],
    ['an IPv4 address in IPv6, in hexadecimal', '[::ffff:7f00:2]'],
    ['a decimal number', '2130706434'],
    ['a hexadecimal number', '0x7f000002'],
    ['octal parts', '0177.0.0.02'],
    ['a short form', '127.2'],
    ['full-width digits', '１２７.0.0.2'],
    ['ideographic full stops', '127。0。0。2'],
    ['a final dot', '127.0.0.2.'],
    ['an IPv4 address of every zero before it', '[0:0:0:0:0:ffff:127.0.0.2]'],
  ])('opens no connection to %s outside', async (_, host) => {
    await using http = openHttp()
    const attempt = bounded(http, HERE)(`http://${host}:${portOf(abroad)}/`)
    await expect(attempt).rejects.toMatchObject({ code: 'EGRESS_REFUSED', exitCode: 5 })
    expect(connections.abroad).toBe(0)
  })

  test.each([
    '10.0.0.1',
    '192.168.0.1',
    '169.254.169.254',
    '0.0.0.0',
    '[::]',
    '[fe80::1]',
    '[64:ff9b::7f00:2]',
  ])('takes no private, local or translated address for an allowed one: %s', async (host) => {
    await using http = openHttp()
    await expect(bounded(http, HERE)(`http://${host}/`)).rejects.toMatchObject({ code: 'EGRESS_REFUSED' })
  })

  test('does not follow a redirect out, though the first answer came from inside', async () => {
    await using http = openHttp()
    redirectTo = `http://127.0.0.2:${portOf(abroad)}/`
    const attempt = bounded(http, HERE)(`http://127.0.0.1:${portOf(inside)}/away`)
    await expect(attempt).rejects.toMatchObject({ code: 'EGRESS_REFUSED' })
    expect(connections).toEqual({ inside: 1, abroad: 0 })
  })

  test('is not fooled by a name that answers differently the second time', async () => {
    await using http = openHttp({ lookup: answering('127.0.0.1', '127.0.0.2') })
    const fetch = bounded(http, HERE)
    await (await fetch(`http://rebinding.example:${portOf(inside)}/`)).text()
    // Another port is another connection, and so another answer.
    const attempt = fetch(`http://rebinding.example:${portOf(abroad)}/`)
    await expect(attempt).rejects.toMatchObject({ code: 'EGRESS_REFUSED' })
    expect(connections.abroad).toBe(0)
  })

  test('refuses a name whole when one of its addresses is outside', async () => {
    await using http = openHttp({
      lookup: (_host, _options, done) =>
        done(null, [
          { address: '127.0.0.1', family: 4 },
          { address: '127.0.0.2', family: 4 },
        ]),
    })
    const attempt = bounded(http, HERE)(`http://both.example:${portOf(inside)}/`)
    await expect(attempt).rejects.toThrow(/both.example is at 127.0.0.2, which is outside/)
    expect(connections.inside).toBe(0)
  })

  test('judges the host of a URL, and nothing that looks like one before or after it', async () => {
    const asked: string[] = []
    await using http = openHttp({
      lookup: (host, _options, done) => {
        asked.push(host)
        done(null, [{ address: '127.0.0.2', family: 4 }])
      },
    })
    const port = portOf(abroad)
    for (const path of ['127.0.0.1@abroad.example', 'abroad.example', 'هرات.example', 'abroad。example']) {
      const url = `http://${path}:${port}/#@127.0.0.1/`
      redirectTo = encodeURI(url)
      const attempts = [`http://127.0.0.1:${portOf(inside)}/away`, url]
      for (const url of attempts) await expect(bounded(http, HERE)(url)).rejects.toThrow()
    }
    expect(connections.abroad).toBe(0)
    expect(new Set(asked)).toEqual(new Set(['abroad.example', 'xn--mgbgt1g.example']))
  })

  test('tells of every refusal where it would have gone', async () => {
    await using http = openHttp({ lookup: answering('127.0.0.2') })
    refusals.length = 0
    const fetch = bounded(http, HERE)
    for (const _ of [1, 2]) await fetch(`http://abroad.example:${portOf(abroad)}/`).catch(() => {})
    expect(refusals).toEqual(Array(2).fill({ host: 'abroad.example', address: '127.0.0.2' }))
  })

  test('reuses no connection once its networks are allowed no longer', async () => {
    await using http = openHttp()
    let networks = HERE
    const fetch = http.within({ networks: async () => networks, onRefused: () => {} })
    await (await fetch(`http://127.0.0.1:${portOf(inside)}/`)).text()
    networks = ['127.0.0.2/32']
    await expect(fetch(`http://127.0.0.1:${portOf(inside)}/`)).rejects.toMatchObject({
      code: 'EGRESS_REFUSED',
    })
    expect(connections.inside).toBe(1)
  })

  test('goes nowhere where no network is allowed, or where they cannot be told', async () => {
    await using http = openHttp()
    const url = `http://127.0.0.1:${portOf(inside)}/`
    await expect(bounded(http, [])(url)).rejects.toMatchObject({ code: 'EGRESS_REFUSED' })
    const unknown = http.within({
      networks: () => Promise.reject(new Error('the database is away')),
      onRefused: () => {},
    })
    await expect(unknown(url)).rejects.toThrow('the database is away')
    expect(connections.inside).toBe(0)
  })

  test('without the guard reaches what is abroad: the listener is real', async () => {
    await using http = openHttp()
    await (await bounded(http, undefined)(`http://127.0.0.2:${portOf(abroad)}/`)).text()
    expect(connections.abroad).toBe(1)
  })
})

test.each([
  ['10.1.2.3', ['10.0.0.0/8'], true],
  ['11.1.2.3', ['10.0.0.0/8'], false],
  ['10.1.2.3', ['10.1.2.3/32'], true],
  ['::ffff:10.1.2.3', ['10.0.0.0/8'], true],
  ['::10.1.2.3', ['10.0.0.0/8'], false],
  ['2001:db8::1', ['2001:db8::/32'], true],
  ['2001:db9::1', ['2001:db8::/32'], false],
  ['10.1.2.3', ['2001:db8::/32'], false],
  ['10.1.2.3', [], false],
])('%s within %j: %s', (address, networks, within) => {
  expect(addressWithin(address, networks)).toBe(within)
})

/** A name server that gives each answer once and the last one for ever. */
function answering(...answers: string[]): LookupFunction {
  return (_host, { all }, done) => {
    const address = answers.length > 1 ? answers.shift()! : answers[0]!
    if (all) done(null, [{ address, family: 4 }])
    else done(null, address, 4)
  }
}
