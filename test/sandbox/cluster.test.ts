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
    const stream = { name: 'stored', subjects: ['stored.>'], num_replicas: 3 }
    // Adding it again changes nothing; the first request may be lost to an election.
    await manager.streams.add(stream).catch(() => manager.streams.add(stream))
    await storeEventually(0)
  })
  afterAll(async () => {
    await Promise.all(connections.map((connection) => connection.close()))
    await cluster[Symbol.asyncDispose]()
  })

  /** One attempt through one node: the sequence it was acknowledged with, or undefined. */
  const store = async (node: number, timeout: number) => {
    const js = jetstream(connections[node]!)
    const ack = await js.publish('stored.event', 'x', { retries: 0, timeout }).catch(() => undefined)
    return ack?.seq
  }
  // Elections take as long as they take: up to the test's own limit.
  const storeEventually = async (node: number): Promise<number> => {
    for (;;) {
      const seq = await store(node, 2_000)
      if (seq !== undefined) return seq
      await delay(100)
    }
  }

  test('split apart, it acknowledges nothing; healed, it stores again', async () => {
    {
      await using _split = await cluster.split()
      // A leader that does not know yet that it is alone takes messages, but a majority never confirms them.
      for (const node of [0, 1, 2]) expect(await store(node, 1_000)).toBeUndefined()
    }
    for (const node of [0, 1, 2]) await storeEventually(node)
  })

  test('with one node cut off, the other two go on and the one does not', async () => {
    {
      await using _isolated = await cluster.isolate(2)
      await storeEventually(0)
      await storeEventually(1)
      expect(await store(2, 1_000)).toBeUndefined()
    }
    await storeEventually(2)
  })

  test('killed whole and restarted, it finds a leader and its messages', async () => {
    const before = await storeEventually(1)
    await cluster.kill()
    await cluster.restart()
    expect(await storeEventually(1)).toBeGreaterThan(before)
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
