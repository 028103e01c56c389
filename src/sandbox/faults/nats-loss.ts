import { once } from 'node:events'
import { createConnection, createServer, type Socket } from 'node:net'
import { randomFrom } from '../random.ts'

/** A link in front of NATS that loses some of the messages that are delivered through it, and nothing else. */
export interface LossyNats extends AsyncDisposable {
  readonly url: string
  /** How many messages were lost, and how many it let pass in the time in which it lost some. */
  readonly lost: number
  readonly passed: number
  /** From now on this share of the messages is lost. */
  lose(share: number): void
}

/**
 * Opens a link that speaks NATS's client protocol (docs.nats.io/reference/reference-protocols/nats-protocol): of what the server delivers on
 * subjects that begin with `prefix`, whole messages are left out at random. The stream has them, and believes them sent.
 */
export async function openLossyNats({
  serverUrl,
  prefix,
  share,
  seed,
}: {
  serverUrl: string
  prefix: string
  share: number
  seed: number
}): Promise<LossyNats> {
  const target = new URL(serverUrl)
  const chance = randomFrom(seed)
  const sockets = new Set<Socket>()
  const state = { lost: 0, passed: 0, share }
  const server = createServer((client) => {
    const upstream = createConnection({ host: target.hostname, port: Number(target.port) })
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    client.pipe(upstream)
    const frames = frameReader((frame, subject) => {
      if (subject?.startsWith(prefix)) {
        if (chance.happens(state.share)) {
          state.lost += 1
          return
        }
        if (state.share > 0) state.passed += 1
      }
      client.write(frame)
    })
    upstream.on('data', frames)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const user = target.username ? `${target.username}:${target.password}@` : ''
  return {
    url: `nats://${user}127.0.0.1:${port}`,
    get lost() {
      return state.lost
    },
    get passed() {
      return state.passed
    },
    lose(share) {
      state.share = share
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

const CR_LF = Buffer.from('\r\n')

/** Cuts what a server sends into frames: a line, and for MSG and HMSG the payload behind it. */
function frameReader(onFrame: (frame: Buffer, subject: string | undefined) => void): (chunk: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0)
  return (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    for (;;) {
      const end = rest.indexOf(CR_LF)
      if (end === -1) return
      const words = rest.subarray(0, end).toString('latin1').split(' ')
      const isMessage = words[0] === 'MSG' || words[0] === 'HMSG'
      // The last number of either is the size of all that follows.
      const size = isMessage ? end + 2 + Number(words.at(-1)) + 2 : end + 2
      if (rest.length < size) return
      onFrame(rest.subarray(0, size), isMessage ? words[1] : undefined)
      rest = rest.subarray(size)
    }
  }
}
