import { afterAll, beforeAll } from 'vitest'
import { type Nats, openNats } from '../../src/adapters/nats/client.ts'
import { type NatsOptions, type NatsServer, startNats } from '../../src/sandbox/servers/nats.ts'

/** A NATS of a test file's own (it starts in a tenth of a second), empty; its parts exist from `beforeAll` on. */
export function useNats(options: NatsOptions = {}): { readonly server: NatsServer; readonly client: Nats } {
  let server: NatsServer | undefined
  let client: Nats | undefined
  beforeAll(async () => {
    server = await startNats(options)
    client = openNats({ url: server.url })
  })
  afterAll(async () => {
    await client?.close()
    await server?.[Symbol.asyncDispose]()
  })
  return {
    get server() {
      return present(server)
    },
    get client() {
      return present(client)
    },
  }
}

function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the server exists only while tests run')
  return value
}
