import { setTimeout as delay } from 'node:timers/promises'
import { jetstream, jetstreamManager } from '@nats-io/jetstream'
import { type ConnectionOptions, connect, type NatsConnection } from '@nats-io/transport-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type NatsNode, type NatsServer, startNats } from '../../src/sandbox/servers/nats.ts'

describe('a cluster of three', () => {
  let cluster: NatsServer
  const connections: NatsConnection[] = []
  beforeAll(async () => {
    cluster = await startNats({ nodes: 3 })
    for (const node of cluster.nodes) connections.push(await connect(optionsOf(node)))
    const manager = await jetstreamManager(connections[0]!)
    await manager.streams.add({ name: 'stored', subjects: ['stored.>'], num_replicas: 3 })
    await storeEventually(0)
  })
  afterAll(async () => {
    await Promise.all(connections.map((connection) => connection.close()))
    await cluster[Symbol.asyncDispose]()
  })

  /** One attempt through one node; whether it was acknowledged. */
  const stores = async (node: number, timeout: number) => {
    try {
      await jetstream(connections[node]!).publish('stored.event', 'x', { retries: 0, timeout })
      return true
    } catch {
      return false
    }
  }
  // Elections take as long as they take: up to the test's own limit.
  const storeEventually = async (node: number) => {
    while (!(await stores(node, 2_000))) await delay(100)
  }

  test('split apart, it acknowledges nothing; healed, it stores again', async () => {
    {
      await using _split = await cluster.split()
      // A leader that does not know yet that it is alone takes messages, but a majority never confirms them.
      for (const node of [0, 1, 2]) expect(await stores(node, 1_000)).toBe(false)
    }
    for (const node of [0, 1, 2]) await storeEventually(node)
  })

  test('with one node cut off, the other two go on and the one does not', async () => {
    {
      await using _isolated = await cluster.isolate(2)
      await storeEventually(0)
      await storeEventually(1)
      expect(await stores(2, 1_000)).toBe(false)
    }
    await storeEventually(2)
  })

  test('killed whole and restarted, it finds a leader and its messages', async () => {
    const before = await (await jetstreamManager(connections[0]!)).streams.info('stored')
    await cluster.kill()
    await cluster.restart()
    const connection = await connect(optionsOf(cluster.nodes[1]!))
    connections.push(connection)
    const js = jetstream(connection)
    for (;;) {
      const ack = await js.publish('stored.event', 'x', { retries: 0, timeout: 2_000 }).catch(() => undefined)
      if (ack) {
        expect(ack.seq).toBeGreaterThan(before.state.last_seq)
        return
      }
      await delay(100)
    }
  })
})

function optionsOf(node: NatsNode): ConnectionOptions {
  const { host, username: user, password: pass } = new URL(node.url)
  return {
    servers: host,
    user,
    pass,
    ignoreClusterUpdates: true,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
  }
}
