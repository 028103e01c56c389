import type { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type {
  Consumer,
  ConsumerConfig,
  ConsumerInfo,
  JetStreamApiError,
  JetStreamManager,
  JsMsg,
  StreamConfig,
  StreamInfo,
} from '@nats-io/jetstream'
import type { NatsConnectionImpl } from '@nats-io/nats-core/internal'
import type { MsgHdrs, NatsConnection } from '@nats-io/transport-node'
import { TabibError } from '../../errors.ts'
import { openPublisher, type Publisher, TRANSIENT_ERR_CODES } from './publisher.ts'

export type { PublishableMessage, Publisher, PublishOutcome, Sender } from './publisher.ts'

// Most commands ask Postgres alone.
const library = () => import('./library.ts')

export interface NatsOptions {
  /** One URL or several, comma-separated; `nats://user:password@host:port`. */
  url: string
  name?: string
  connectTimeoutMs?: number
  /**
   * How the client behaves when its connection is lost. `resume` reconnects for ever and sends what was buffered
   * meanwhile; `fail` closes, so that nothing is sent later than its sender believes (the relay needs that).
   */
  onDisconnect?: 'resume' | 'fail'
}

/** A message for `store`. `headers` are without `Nats-Msg-Id`. */
export interface StorableMessage {
  subject: string
  messageId: string
  headers: ReadonlyMap<string, string>
  payload: Uint8Array
}

/** A stored message with its place in the stream. */
export interface StoredMessage {
  seq: number
  subject: string
  time: Date
  headers: Map<string, string>
  payload: Uint8Array
}

/**
 * The only client of NATS and JetStream. Opened lazily: the first call connects.
 *
 * @throws TabibError NATS_UNREACHABLE from every method when no server answers (safe to retry).
 */
export interface Nats extends AsyncDisposable {
  /** Connects if need be, and proves with a round trip that the server answers. */
  ping(): Promise<void>
  /** Bytes a message may have, headers included, as the server announced. */
  maxPayload(): Promise<number>
  openPublisher(options?: { ackTimeoutMs?: number }): Promise<Publisher>
  /**
   * Publishes one message of any bytes and waits for the stream's acknowledgement; for many, `openPublisher`. The
   * message id makes it safe to repeat within the stream's dedupe window.
   */
  store(message: StorableMessage): Promise<{ seq: number; duplicate: boolean }>
  /** Creates the stream or brings its configuration up to date; says which. */
  ensureStream(config: Partial<StreamConfig> & { name: string }): Promise<'created' | 'updated' | 'unchanged'>
  stream(name: string): Promise<StreamInfo | undefined>
  /** Every stream of the account: key-value buckets and object stores are streams too. */
  streams(): Promise<StreamInfo[]>
  /** Deletes a stream with all it holds; false when there was none. For sandboxes: no command does this. */
  deleteStream(name: string): Promise<boolean>
  ensureConsumer(
    stream: string,
    config: Partial<ConsumerConfig> & { durable_name: string },
  ): Promise<ConsumerInfo>
  consumerInfo(stream: string, durable: string): Promise<ConsumerInfo | undefined>
  /** The pull consumer itself: `consume()` and `fetch()` of @nats-io/jetstream. */
  consumer(stream: string, durable: string): Promise<Consumer>
  /** One stored message, or undefined when the stream no longer has it. */
  message(stream: string, seq: number): Promise<StoredMessage | undefined>
  /**
   * Stored messages from a sequence, or from a time by the server's clock, to the end that the stream had when called;
   * payloads left out unless asked for.
   */
  messages(
    stream: string,
    from: number | Date,
    options?: { payloads?: boolean },
  ): AsyncIterable<StoredMessage>
  /**
   * The server's own clock, in milliseconds since 1970 (of a cluster its JetStream leader's): when it made a consumer
   * without a name, which is then taken away. Its protocol tells no time otherwise.
   */
  serverTime(stream: string): Promise<number>
  /** Core NATS: fire and forget, no delivery promise. */
  notify(subject: string, payload?: Uint8Array): Promise<void>
  /** Core NATS: calls `heard` for every message until disposed. */
  listen(subject: string, heard: (subject: string, payload: Uint8Array) => void): Promise<AsyncDisposable>
  /** Settles when the present connection is closed for good. */
  closed(): Promise<void>
  close(): Promise<void>
}

export type { JsMsg }

export function openNats(options: NatsOptions): Nats {
  const servers = options.url.split(',').map((url) => url.trim())
  const where = servers.map(describeNatsUrl).join(', ')
  const timeoutMs = options.connectTimeoutMs ?? 5_000
  let opening: Promise<NatsConnection> | undefined
  let managing: Promise<JetStreamManager> | undefined
  // Pending while the connection is lost: the client drops requests made then, and their callers wait for nothing.
  let online: { promise: Promise<void>; resolve: () => void } | undefined

  const unreachable = (cause: unknown, what = 'is unreachable') =>
    new TabibError(
      'NATS_UNREACHABLE',
      `NATS at ${where} ${what}: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
        suggestions: ['tabib status billing/FM-02'],
        ref: 'runbooks/billing/fm-02-nats-unreachable.md',
      },
    )

  const connection = (): Promise<NatsConnection> => {
    opening ??= library()
      .then(({ connect }) =>
        connect({
          ...credentials(servers),
          name: options.name ?? 'tabib',
          timeout: timeoutMs,
          reconnect: options.onDisconnect !== 'fail',
          maxReconnectAttempts: options.onDisconnect === 'fail' ? 0 : -1,
          reconnectTimeWait: 250,
          reconnectJitter: 250,
          waitOnFirstConnect: false,
          ignoreClusterUpdates: true,
        }),
      )
      .then(
        (nc) => {
          void nc.closed().then(() => {
            opening = undefined
            managing = undefined
            online?.resolve()
          })
          keepErrorListener(nc)
          void watch(nc)
          return nc
        },
        (cause) => {
          opening = undefined
          throw unreachable(cause)
        },
      )
    return opening
  }
  const watch = async (nc: NatsConnection): Promise<void> => {
    for await (const { type } of nc.status()) {
      if (type === 'disconnect') online ??= signal()
      if (type !== 'reconnect') continue
      keepErrorListener(nc)
      online?.resolve()
      online = undefined
    }
  }
  const live = async (): Promise<NatsConnection> => {
    const nc = await connection()
    if (!online) return nc
    await withTimeout(online.promise, timeoutMs).catch((cause) => {
      throw unreachable(cause)
    })
    return connection()
  }
  const manager = async (): Promise<JetStreamManager> => {
    const nc = await live()
    managing ??= library().then(({ jetstreamManager }) => jetstreamManager(nc, { checkAPI: false }))
    return managing
  }
  const client = async () => (await library()).jetstream(await connection())
  // Every call of JetStream's API made here may be made twice, and a cluster that elects a leader asks for just that.
  const jetStreamCall = async <T>(call: (jsm: JetStreamManager) => Promise<T>): Promise<T> => {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      try {
        return await call(await manager())
      } catch (error) {
        const unavailable = isUnavailable(error)
        if (unavailable && performance.now() < deadline) await delay(50 + Math.random() * 100)
        else if (unavailable || isTransportError(error)) throw unreachable(error, 'did not answer')
        else throw error
      }
    }
  }
  const unlessNotFound = async <T>(call: Promise<T>): Promise<T | undefined> => {
    try {
      return await call
    } catch (error) {
      if (isNotFound(error)) return undefined
      throw error
    }
  }

  const nats: Nats = {
    async ping() {
      const nc = await live()
      await withTimeout(nc.flush(), timeoutMs).catch((cause) => {
        throw unreachable(cause, 'did not answer')
      })
    },
    async maxPayload() {
      return (await connection()).info?.max_payload ?? 1_048_576
    },
    async openPublisher({ ackTimeoutMs = 5_000 } = {}) {
      const { createInbox } = await library()
      return openPublisher(await connection(), `${createInbox()}.`, ackTimeoutMs, unreachable)
    },
    store: ({ subject, messageId, headers: wanted, payload }) =>
      jetStreamCall(async () => {
        const all = (await library()).headers()
        for (const [name, value] of wanted) all.set(name, value)
        const { seq, duplicate } = await (await client()).publish(subject, payload, {
          msgID: messageId,
          headers: all,
          timeout: 5_000,
        })
        return { seq, duplicate }
      }),
    ensureStream: (config) =>
      jetStreamCall(async (jsm) => {
        const present = await unlessNotFound(jsm.streams.info(config.name))
        if (!present) {
          await jsm.streams.add(config)
          return 'created'
        }
        if (!differs(config, present.config)) return 'unchanged'
        await jsm.streams.update(config.name, config)
        return 'updated'
      }),
    stream: (name) => jetStreamCall((jsm) => unlessNotFound(jsm.streams.info(name))),
    streams: () =>
      jetStreamCall(async (jsm) => {
        const all: StreamInfo[] = []
        for await (const one of jsm.streams.list()) all.push(one)
        return all
      }),
    deleteStream: async (name) =>
      (await jetStreamCall((jsm) => unlessNotFound(jsm.streams.delete(name)))) ?? false,
    ensureConsumer: (stream, config) =>
      jetStreamCall(async (jsm) => {
        const present = await unlessNotFound(jsm.consumers.info(stream, config.durable_name))
        if (!present) return jsm.consumers.add(stream, config)
        return differs(config, present.config)
          ? jsm.consumers.update(stream, config.durable_name, config)
          : present
      }),
    consumerInfo: (stream, durable) =>
      jetStreamCall((jsm) => unlessNotFound(jsm.consumers.info(stream, durable))),
    consumer: (stream, durable) => jetStreamCall(async () => (await client()).consumers.get(stream, durable)),
    message: (stream, seq) =>
      jetStreamCall(async (jsm) => {
        const found = await unlessNotFound(jsm.streams.getMessage(stream, { seq }))
        if (!found) return undefined
        return {
          seq: found.seq,
          subject: found.subject,
          time: found.time,
          headers: headerMap(found.header),
          payload: found.data,
        }
      }),
    async *messages(stream, from, { payloads = false } = {}) {
      const info = await nats.stream(stream)
      const last = info?.state.last_seq ?? 0
      if (!info || info.state.messages === 0 || (typeof from === 'number' && from > last)) return
      const ordered = await jetStreamCall(async () =>
        (await client()).consumers.get(stream, {
          ...(typeof from === 'number'
            ? { opt_start_seq: Math.max(from, info.state.first_seq) }
            : { opt_start_time: from.toISOString() }),
          headers_only: !payloads,
        }),
      )
      // The tail may have been removed, and then nothing comes that would end the wait.
      if ((await jetStreamCall(() => ordered.info())).num_pending === 0) return
      const messages = await ordered.consume({ max_messages: 1_000 })
      try {
        for await (const message of messages) {
          yield {
            seq: message.seq,
            subject: message.subject,
            time: new Date(message.info.timestampNanos / 1e6),
            headers: headerMap(message.headers),
            payload: message.data,
          }
          if (message.seq >= last || message.info.pending === 0) return
        }
      } finally {
        await messages.close()
      }
    },
    serverTime: (stream) =>
      jetStreamCall(async (jsm) => {
        const { name, created } = await jsm.consumers.add(stream, {
          ack_policy: 'none',
          deliver_policy: 'new',
          mem_storage: true,
          num_replicas: 1,
          inactive_threshold: 1e9,
        })
        // Nobody waits for it to go: it does so by itself after a second.
        jsm.consumers.delete(stream, name).catch(() => {})
        return Date.parse(created)
      }),
    async notify(subject, payload) {
      const nc = await connection()
      nc.publish(subject, payload)
    },
    async listen(subject, heard) {
      const nc = await connection()
      const subscription = nc.subscribe(subject, {
        callback: (error, message) => {
          if (!error) heard(message.subject, message.data)
        },
      })
      return {
        async [Symbol.asyncDispose]() {
          if (!nc.isClosed()) subscription.unsubscribe()
        },
      }
    },
    async closed() {
      const nc = await connection()
      await nc.closed()
    },
    async close() {
      const nc = await opening?.catch(() => undefined)
      await nc?.close()
    },
    async [Symbol.asyncDispose]() {
      await nats.close()
    },
  }
  return nats
}

/**
 * The library takes every listener off a socket before it destroys it. An error that is on its way then, as of a write
 * after the server has ended the connection, would find none and end the process.
 */
function keepErrorListener(nc: NatsConnection): void {
  const { socket } = (nc as NatsConnectionImpl).protocol.transport as unknown as { socket?: Socket }
  if (!socket) return
  const { removeAllListeners } = socket
  socket.removeAllListeners = (event) => removeAllListeners.call(socket, event).on('error', () => {})
}

function headerMap(headers: MsgHdrs | undefined): Map<string, string> {
  const map = new Map<string, string>()
  if (headers) for (const [name, values] of headers) if (values[0] !== undefined) map.set(name, values[0])
  return map
}

function differs(wanted: object, present: object): boolean {
  const there = present as Record<string, unknown>
  return Object.entries(wanted).some(
    ([key, value]) => value !== undefined && JSON.stringify(value) !== JSON.stringify(there[key]),
  )
}

const isNotFound = (error: unknown): boolean =>
  error instanceof Error && /not found|no message found/i.test(error.message)

const isUnavailable = (error: unknown): boolean =>
  error instanceof Error &&
  error.name === 'JetStreamApiError' &&
  TRANSIENT_ERR_CODES.has((error as JetStreamApiError).code)

const isTransportError = (error: unknown): boolean =>
  error instanceof Error &&
  /Timeout|NoResponders|Closed|Connection|Draining|JetStreamNotEnabled/i.test(
    `${error.name} ${error.message}`,
  )

function credentials(servers: string[]): { servers: string[]; user?: string; pass?: string } {
  const first = new URL(servers[0]?.includes('://') ? servers[0] : `nats://${servers[0]}`)
  const hosts = servers.map((server) => server.replace(/^(\w+:\/\/)?[^@/]*@/, '$1'))
  if (!first.username) return { servers: hosts }
  return {
    servers: hosts,
    user: decodeURIComponent(first.username),
    pass: decodeURIComponent(first.password),
  }
}

/** `host:port` of a NATS URL: what may be shown, without user or password. */
function describeNatsUrl(url: string): string {
  return url.replace(/^\w+:\/\//, '').replace(/^[^@]*@/, '')
}

function signal(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {}
  const promise = new Promise<void>((fulfil) => {
    resolve = fulfil
  })
  return { promise, resolve }
}

async function withTimeout<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([work, timeout])
  } finally {
    clearTimeout(timer)
  }
}
