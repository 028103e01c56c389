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
import type { Msg, MsgHdrs, NatsConnection } from '@nats-io/transport-node'
import { TabibError } from '../../errors.ts'

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

/** What became of one published message. */
export type PublishOutcome =
  /** Also when it was there before: a duplicate answers with the sequence of the first. */
  | { kind: 'stored'; seq: number }
  /** The stream answered with an error: the message as it is will not be taken. `code` is JetStream's err_code. */
  | { kind: 'refused'; code: number; description: string }
  /** Nobody knows whether it was stored: no stream listened, no answer in time, or the connection was lost. */
  | {
      kind: 'unknown'
      reason: 'no-responders' | 'timed-out' | 'disconnected' | 'unavailable'
      description: string
    }

/** Bytes within others, in UTF-8: a view of them would cost more than to copy them. */
export interface Span {
  bytes: Buffer
  start: number
  end: number
}

/** A message as text. */
export interface PublishableMessage {
  subject: string
  /** The whole header block: `NATS/1.0`, one `Name: value` a line, an empty line; CR LF throughout. */
  headers: string
  /** In parts, since to join a large one to others would copy it once more. */
  payload: { before: string; data: string | Span /** A few characters of ASCII. */; after: string }
}

/** Whoever sent a message: told its outcome exactly once. An object, since a closure a message is garbage a message. */
export interface Sender {
  concluded(outcome: PublishOutcome): void
}

export interface Publisher extends AsyncDisposable {
  /**
   * Sends one message without waiting and tells `sender` its outcome.
   * @throws TabibError NATS_UNREACHABLE when the connection is already closed; `sender` is then told nothing.
   */
  send(message: PublishableMessage, sender: Sender): void
  /** Messages sent whose outcome is not known yet. */
  readonly inFlight: number
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

// Large enough that a write to the socket carries dozens of messages, small enough not to delay the first.
const CHUNK_BYTES = 131_072
const LONGEST_IN_UTF8 = 3
const FORGET_AT_ONCE = 4_096
// `000000312 000001034\r\n`: the server takes sizes of up to nine digits.
const SIZE_DIGITS = 9
const SIZES = `${'0'.repeat(SIZE_DIGITS)} ${'0'.repeat(SIZE_DIGITS)}\r\n`
const CR = 0x0d
const LF = 0x0a
const QUOTE = 0x22
const DIGIT_0 = 0x30
const COLON = 0x3a
const LETTER_Q = 0x71
const LETTER_S = 0x73
const CLOSING_BRACE = 0x7d

/**
 * Publishes raw: one reply inbox for all acknowledgements, one timer for all time-outs, and one buffer and one write
 * for many messages. A `js.publish()` loop costs a promise, a subscription and a timer a message, and was measured at a
 * quarter of the rate; `nc.publish()` costs three typed arrays a message, and was measured at half.
 */
function openPublisher(
  nc: NatsConnection,
  inbox: string,
  ackTimeoutMs: number,
  unreachable: (cause: unknown) => TabibError,
): Publisher {
  const { protocol } = nc as NatsConnectionImpl
  // Whoever waits, in the order of sending: `waiting[0]` sent the message `first`. Settled ones leave a hole until all
  // before them are settled too: cheaper than a Map with an entry a message.
  let waiting: (Sender | undefined)[] = []
  let first = 1
  let settledAhead = 0
  let inFlight = 0
  let token = 0

  const settle = (key: number, outcome: PublishOutcome) => {
    const sender = waiting[key - first]
    if (!sender) return
    waiting[key - first] = undefined
    inFlight -= 1
    while (settledAhead < waiting.length && waiting[settledAhead] === undefined) settledAhead += 1
    if (settledAhead >= FORGET_AT_ONCE) {
      waiting = waiting.slice(settledAhead)
      first += settledAhead
      settledAhead = 0
    }
    sender.concluded(outcome)
  }
  const settleUpTo = (last: number, outcome: PublishOutcome) => {
    for (let key = first; key <= last; key++) settle(key, outcome)
  }
  const subscription = nc.subscribe(`${inbox}*`, {
    callback: (error, message) => {
      if (!error) settle(Number(message.subject.slice(inbox.length)), readAck(message))
    },
  })
  // What had been sent at each tick: a clock reading a tick instead of one a message.
  const sentBy: { token: number; atMs: number }[] = []
  const timedOut: PublishOutcome = {
    kind: 'unknown',
    reason: 'timed-out',
    description: `no acknowledgement within ${ackTimeoutMs} ms`,
  }
  const timer = setInterval(
    () => {
      const now = performance.now()
      let late = 0
      while (sentBy[0] && sentBy[0].atMs < now - ackTimeoutMs) late = sentBy.shift()?.token ?? 0
      if (late > 0) settleUpTo(late, timedOut)
      sentBy.push({ token, atMs: now })
    },
    Math.min(ackTimeoutMs / 4, 250),
  )
  timer.unref()
  const disconnected: PublishOutcome = {
    kind: 'unknown',
    reason: 'disconnected',
    description: 'the connection was lost before the acknowledgement',
  }
  void nc.closed().then(() => {
    clearInterval(timer)
    settleUpTo(token, disconnected)
  })

  let chunk = Buffer.alloc(0)
  let used = 0
  const flush = () => {
    if (used === 0 || nc.isClosed()) return
    protocol.sendCommand(chunk.subarray(0, used))
    // Its bytes belong to the socket now; a slow link may hold them for long.
    chunk = chunk.subarray(used)
    used = 0
  }
  return {
    send({ subject, headers, payload }, sender) {
      if (nc.isClosed()) throw unreachable(new Error('connection closed'))
      token += 1
      waiting.push(sender)
      inFlight += 1
      const command = `HPUB ${subject} ${inbox}${token} `
      const text = command + SIZES + headers + payload.before
      const { data, after } = payload
      const atMost =
        LONGEST_IN_UTF8 * (text.length + after.length + (typeof data === 'string' ? data.length : 0)) +
        (typeof data === 'string' ? 0 : data.end - data.start) +
        2
      if (chunk.length - used < atMost) {
        flush()
        if (chunk.length < atMost) chunk = Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, atMost))
      }
      if (used === 0) queueMicrotask(flush)
      // The sizes are known once all is written, and stand before it in a field of fixed width.
      let end = used + chunk.write(text, used)
      const isAscii = end - used === text.length
      const sizesAt = used + (isAscii ? command.length : Buffer.byteLength(command))
      const headersAt = sizesAt + SIZES.length
      const payloadAt = headersAt + (isAscii ? headers.length : Buffer.byteLength(headers))
      end +=
        typeof data === 'string' ? chunk.write(data, end) : data.bytes.copy(chunk, end, data.start, data.end)
      for (let i = 0; i < after.length; i++) chunk[end++] = after.charCodeAt(i)
      writeSize(chunk, sizesAt, payloadAt - headersAt)
      writeSize(chunk, sizesAt + SIZE_DIGITS + 1, end - headersAt)
      chunk[end] = CR
      chunk[end + 1] = LF
      used = end + 2
    },
    get inFlight() {
      return inFlight
    },
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      if (!nc.isClosed()) subscription.unsubscribe()
      settleUpTo(token, disconnected)
    },
  }
}

function writeSize(chunk: Buffer, at: number, bytes: number): void {
  for (let i = at + SIZE_DIGITS - 1, left = bytes; i >= at; i--) {
    chunk[i] = DIGIT_0 + (left % 10)
    left = Math.trunc(left / 10)
  }
}

// JetStream's own words for "not now": no leader, no quorum, no room, shutting down. Anything else is about the message.
const TRANSIENT_ERR_CODES = new Set([
  10002, // resource limits exceeded for account
  10008, // cluster not available
  10009, // cluster not the leader
  10023, // insufficient resources
  10028, // JetStream out of memory or storage
  10047, // insufficient storage resources available
  10074, // peer remap failed
  10076, // JetStream not enabled
  10077, // maximum messages, bytes or storage: whatever the stream could not store for want of room
  10109, // stream is sealed
  10118, // stream is offline
  10122, // maximum bytes
  10158, // the same message id is being stored
])

function readAck(message: Msg): PublishOutcome {
  if (message.headers?.code === 503) {
    return {
      kind: 'unknown',
      reason: 'no-responders',
      description: 'no stream listens on the subject, or JetStream is not available',
    }
  }
  const { data } = message
  const seq = plainSeq(data)
  if (seq !== undefined) return { kind: 'stored', seq }
  try {
    const ack = JSON.parse(Buffer.from(data).toString()) as {
      stream?: string
      seq?: number
      error?: { code: number; err_code?: number; description?: string }
    }
    if (ack.error) {
      const code = ack.error.err_code ?? ack.error.code
      const description = ack.error.description ?? `error ${code}`
      if (ack.error.code === 503 || TRANSIENT_ERR_CODES.has(code)) {
        return { kind: 'unknown', reason: 'unavailable', description }
      }
      return { kind: 'refused', code, description }
    }
    if (ack.stream !== undefined && ack.seq !== undefined) {
      return { kind: 'stored', seq: ack.seq }
    }
  } catch {
    // Falls through: an answer that is no acknowledgement proves nothing.
  }
  return { kind: 'unknown', reason: 'unavailable', description: 'the answer was not an acknowledgement' }
}

// {"stream":"billing-evt", "seq":42}: the common answer, read from its end without making text of it.
function plainSeq(data: Uint8Array): number | undefined {
  const last = data.length - 2
  if (data[2] !== LETTER_S || data[last + 1] !== CLOSING_BRACE) return undefined
  let at = last
  let seq = 0
  for (let unit = 1; data[at]! >= DIGIT_0 && data[at]! <= DIGIT_0 + 9; unit *= 10) {
    seq += (data[at]! - DIGIT_0) * unit
    at -= 1
  }
  const isSeq = at < last && data[at] === COLON && data[at - 1] === QUOTE && data[at - 2] === LETTER_Q
  return isSeq ? seq : undefined
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
