import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { openNats } from '../src/adapters/nats/client.ts'
import { useNats } from './support/nats.ts'

const nats = useNats()

it('closes quietly when it writes to a server that has just ended the connection', async () => {
  const { hostname, port, username, password } = new URL(nats.server.url)
  const proxied: Socket[] = []
  const proxy = createServer((client) => {
    const upstream = createConnection({ host: hostname, port: Number(port) })
    proxied.push(client, upstream)
    client.pipe(upstream).pipe(client)
  })
  await once(proxy.listen(0, '127.0.0.1'), 'listening')
  const { port: proxyPort } = proxy.address() as AddressInfo
  let own: Socket | undefined
  const remember = (message: unknown) => {
    own ??= (message as { socket: Socket }).socket
  }
  const uncaught: Error[] = []
  const note = (error: Error) => uncaught.push(error)
  process.on('uncaughtException', note)
  subscribe('net.client.socket', remember)
  try {
    const client = openNats({
      url: `nats://${username}:${password}@127.0.0.1:${proxyPort}`,
      onDisconnect: 'fail',
    })
    const heard = await client.listen('anything', () => {})
    await client.ping()
    if (!own) throw new Error('the client opened no socket')
    const ended = once(own, 'end')
    proxied[0]?.end()
    await ended
    // Tells the server that it no longer listens: a write after the end, whose error is on its way at the close.
    await heard[Symbol.asyncDispose]()
    await client.close()
    // Whatever was on its way has been told by then.
    await setImmediate()
  } finally {
    unsubscribe('net.client.socket', remember)
    process.off('uncaughtException', note)
    for (const socket of proxied) socket.destroy()
    proxy.close()
  }
  expect(uncaught).toEqual([])
})
