import { once } from 'node:events'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

const OWNER_LOOKS = 5

export type Direction = 'to-server' | 'to-client'

/** Which connections a fault is for, by their owner as `ownerOf` told it; all of them when left out. */
export type Whose = (owner: string | undefined) => boolean

/** A TCP link in front of a server that can be made as bad as a network can be. Starts out passing everything. */
export interface Link extends AsyncDisposable {
  /** Port on 127.0.0.1; kept while the link refuses. */
  readonly port: number
  /** Connections open now. */
  readonly connections: number
  /** Undoes every fault: bytes held back by a partition go on as they would after a retransmission. */
  pass(): Promise<void>
  /** Drops what is connected and answers new connections with ECONNREFUSED. */
  refuse(): Promise<void>
  /** Each piece of at most 64 KiB waits `delayMs`, and no more than `bytesPerS` pass in either direction. */
  slow(link: { delayMs?: number; bytesPerS?: number }, whose?: Whose): void
  /** Nothing passes in either direction, connections stay open, new ones are taken and hear nothing. */
  partition(whose?: Whose): void
  /** Resets every connection now; returns how many there were. */
  drop(): number
  /**
   * Resets, once, the connection that carries the `bytes`th byte from now on in that direction, right after that byte.
   * Resolves when it has happened.
   */
  dropAfter(bytes: number, direction: Direction): Promise<void>
}

/** Opens a link to `targetPort` on 127.0.0.1, listening on `port` or on one that the system picks. */
export async function openLink({
  targetPort,
  port = 0,
  ownerOf = () => undefined,
}: {
  targetPort: number
  port?: number
  /** Who has made a connection, by its own port: so a link that several use may be bad for some of them alone. */
  ownerOf?: (clientPort: number) => string | undefined
}): Promise<Link> {
  const pairs = new Set<Pair>()
  const everybody = () => true
  let delayMs = 0
  let bytesPerS = Number.POSITIVE_INFINITY
  let isSlow: Whose = everybody
  let healed: Promise<void> | undefined
  let isCut: Whose = everybody
  let heal = () => {}
  let cut: { left: number; direction: Direction; done: () => void } | undefined

  const reset = (pair: Pair) => {
    pairs.delete(pair)
    pair.client.resetAndDestroy()
    pair.upstream.resetAndDestroy()
  }
  const drop = () => {
    const count = pairs.size
    for (const pair of [...pairs]) reset(pair)
    return count
  }
  const passes = async ({ owner }: Pair) => {
    while (healed && isCut(owner)) await healed
  }
  const carry = async (pair: Pair, direction: Direction) => {
    const [from, to] = direction === 'to-server' ? [pair.client, pair.upstream] : [pair.upstream, pair.client]
    let freeAt = 0
    for await (const chunk of from.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      if ((delayMs > 0 || bytesPerS !== Number.POSITIVE_INFINITY) && isSlow(pair.owner)) {
        const now = performance.now()
        freeAt = Math.max(freeAt, now) + (chunk.length / bytesPerS) * 1_000
        await delay(freeAt - now + delayMs)
      }
      await passes(pair)
      if (cut?.direction === direction) {
        if (chunk.length >= cut.left) {
          const { left, done } = cut
          cut = undefined
          // Reset only once the bytes before the cut have left: the other side holds half a message.
          await new Promise((resolve) => to.write(chunk.subarray(0, left), resolve))
          reset(pair)
          done()
          return
        }
        cut.left -= chunk.length
      }
      if (to.destroyed) return
      if (!to.write(chunk)) await writable(to)
    }
    to.end()
  }
  const accept = (client: Socket) => {
    const upstream = createConnection({ host: '127.0.0.1', port: targetPort, allowHalfOpen: true })
    const { remotePort = 0 } = client
    let owner: string | undefined
    let looks = 0
    const pair: Pair = {
      client,
      upstream,
      // Looked for only once a fault is for some alone. The system's tables change while they are read: one that is not found is
      // looked for a few times.
      get owner() {
        if (owner === undefined && looks < OWNER_LOOKS) {
          looks += 1
          owner = ownerOf(remotePort)
        }
        return owner
      },
    }
    pairs.add(pair)
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true)
      socket.on('error', () => {
        // A partition hides the other side's death too, until it heals.
        if (!healed || !isCut(pair.owner)) reset(pair)
      })
      socket.once('close', () => {
        if (client.destroyed && upstream.destroyed) pairs.delete(pair)
      })
    }
    for (const direction of ['to-server', 'to-client'] as const) {
      // A socket that breaks while it is read ends the pair; both sides have heard.
      carry(pair, direction).catch(async () => {
        await passes(pair)
        reset(pair)
      })
    }
  }

  let server = await listen(port, accept)
  const { port: ownPort } = server.address() as { port: number }
  const link: Link = {
    port: ownPort,
    get connections() {
      return pairs.size
    },
    async pass() {
      delayMs = 0
      bytesPerS = Number.POSITIVE_INFINITY
      healed = undefined
      heal()
      if (!server.listening) server = await listen(ownPort, accept)
    },
    async refuse() {
      const closed = server.listening ? once(server, 'close') : undefined
      if (closed) server.close()
      drop()
      await closed
    },
    slow(speed, whose = everybody) {
      isSlow = whose
      delayMs = speed.delayMs ?? 0
      bytesPerS = speed.bytesPerS ?? Number.POSITIVE_INFINITY
    },
    partition(whose = everybody) {
      isCut = whose
      const healOthers = heal
      healed = new Promise((resolve) => {
        heal = resolve
      })
      // Whoever waits looks again whether it is for them.
      healOthers()
    },
    drop,
    dropAfter: (bytes, direction) =>
      new Promise((done) => {
        cut = { left: bytes, direction, done }
      }),
    async [Symbol.asyncDispose]() {
      await link.refuse()
      healed = undefined
      heal()
    },
  }
  return link
}

interface Pair {
  client: Socket
  upstream: Socket
  readonly owner: string | undefined
}

async function writable(to: Socket): Promise<void> {
  const either = new AbortController()
  const { signal } = either
  await Promise.race([once(to, 'drain', { signal }), once(to, 'close', { signal })])
  // Takes the other's listener away.
  either.abort()
}

async function listen(port: number, accept: (client: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, accept)
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return server
}
