import type { NatsConnectionImpl } from '@nats-io/nats-core/internal'
import type { Msg, NatsConnection } from '@nats-io/transport-node'
import type { TabibError } from '../../errors.ts'

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

/** A message that writes itself into the bytes that go to the server: what is text or bytes already need not be joined before. */
export interface PublishableMessage {
  readonly subject: string
  /** Bytes of headers and payload together, at most. */
  readonly atMost: number
  /** Writes the whole header block and returns where it ends: `NATS/1.0`, one `Name: value` a line, an empty line; CR LF throughout. */
  writeHeaders(into: Buffer, at: number): number
  writePayload(into: Buffer, at: number): number
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

// JetStream's own words for "not now": no leader, no quorum, no room, shutting down. Anything else is about the message.
export const TRANSIENT_ERR_CODES = new Set([
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

// Large enough that a write to the socket carries dozens of messages, small enough not to delay the first.
const CHUNK_BYTES = 131_072
const FORGET_AT_ONCE = 4_096
// ` 000000312 000001034\r\n`: the server takes sizes of up to nine digits.
const SIZE_DIGITS = 9
const SIZES = Buffer.from(` ${'0'.repeat(SIZE_DIGITS)} ${'0'.repeat(SIZE_DIGITS)}\r\n`)
const LONGEST_TOKEN = 16
const COMMANDS = 1_000
const CR = 0x0d
const LF = 0x0a
const SPACE = 0x20
const LONGEST_ACK = 4_096
// The library's parser is between two messages.
const OP_START = 0
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
export function openPublisher(
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
  const forget = readAhead(protocol, Buffer.from(`MSG ${inbox}`), (key, seq) =>
    settle(key, { kind: 'stored', seq }),
  )
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

  // Remembered, since a subject is seldom new; bounded, since it may be anything.
  const commands = new Map<string, Buffer>()
  const commandOf = (subject: string): Buffer => {
    const known = commands.get(subject)
    if (known) return known
    if (commands.size >= COMMANDS) commands.clear()
    const command = Buffer.from(`HPUB ${subject} ${inbox}`)
    commands.set(subject, command)
    return command
  }
  let chunk = Buffer.alloc(0)
  let used = 0
  const flush = () => {
    if (used === 0 || nc.isClosed()) return
    const full = chunk.subarray(0, used)
    // Not through the library's own queue, which copies what is in it into one; that is for a connection that is lost.
    if (protocol.connected) protocol.transport.send(full)
    else protocol.sendCommand(full)
    // Its bytes belong to the socket now; a slow link may hold them for long.
    chunk = chunk.subarray(used)
    used = 0
  }
  return {
    send(message, sender) {
      if (nc.isClosed()) throw unreachable(new Error('connection closed'))
      token += 1
      waiting.push(sender)
      inFlight += 1
      const command = commandOf(message.subject)
      const atMost = command.length + LONGEST_TOKEN + SIZES.length + message.atMost + 2
      if (chunk.length - used < atMost) {
        flush()
        if (chunk.length < atMost) chunk = Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, atMost))
      }
      if (used === 0) queueMicrotask(flush)
      chunk.set(command, used)
      let end = writeNumber(chunk, used + command.length, token)
      // The sizes are known once all is written, and stand before it in a field of fixed width.
      const sizesAt = end
      chunk.set(SIZES, end)
      const headersAt = end + SIZES.length
      const payloadAt = message.writeHeaders(chunk, headersAt)
      end = message.writePayload(chunk, payloadAt)
      writeSize(chunk, sizesAt + 1, payloadAt - headersAt)
      writeSize(chunk, sizesAt + SIZE_DIGITS + 2, end - headersAt)
      chunk[end] = CR
      chunk[end + 1] = LF
      used = end + 2
    },
    get inFlight() {
      return inFlight
    },
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      forget()
      if (!nc.isClosed()) subscription.unsubscribe()
      settleUpTo(token, disconnected)
    },
  }
}

function writeNumber(chunk: Buffer, at: number, value: number): number {
  let end = at + 1
  for (let left = value; left >= 10; left = Math.trunc(left / 10)) end += 1
  for (let i = end - 1, left = value; i >= at; i--) {
    chunk[i] = DIGIT_0 + (left % 10)
    left = Math.trunc(left / 10)
  }
  return end
}

function writeSize(chunk: Buffer, at: number, bytes: number): void {
  for (let i = at + SIZE_DIGITS - 1, left = bytes; i >= at; i--) {
    chunk[i] = DIGIT_0 + (left % 10)
    left = Math.trunc(left / 10)
  }
}

function readAck(message: Msg): PublishOutcome {
  if (message.headers?.code === 503) {
    return {
      kind: 'unknown',
      reason: 'no-responders',
      description: 'no stream listens on the subject, or JetStream is not available',
    }
  }
  const { data } = message
  const seq = plainSeq(data, 0, data.length)
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
function plainSeq(data: Uint8Array, start: number, end: number): number | undefined {
  const last = end - 2
  if (data[start + 2] !== LETTER_S || data[last + 1] !== CLOSING_BRACE) return undefined
  let at = last
  let seq = 0
  for (let unit = 1; data[at]! >= DIGIT_0 && data[at]! <= DIGIT_0 + 9; unit *= 10) {
    seq += (data[at]! - DIGIT_0) * unit
    at -= 1
  }
  const isSeq = at < last && data[at] === COLON && data[at - 1] === QUOTE && data[at - 2] === LETTER_Q
  return isSeq ? seq : undefined
}

/**
 * Reads plain acknowledgements, `MSG <inbox><key> <sid>  <size>` and `{"stream":…, "seq":…}`, where they arrive, and leaves
 * everything else to the library, which makes six objects of each.
 */
function readAhead(
  { parser }: NatsConnectionImpl['protocol'],
  prefix: Buffer,
  stored: (key: number, seq: number) => void,
): () => void {
  const { parse } = parser
  let at = 0
  // Never past the end: V8 gives code up that reads there, and makes it anew.
  const readNumber = (bytes: Uint8Array): number => {
    let value = 0
    for (; at < bytes.length; at++) {
      const digit = bytes[at]! - DIGIT_0
      if (digit < 0 || digit > 9) break
      value = value * 10 + digit
    }
    return value
  }
  const skipSpaces = (bytes: Uint8Array): void => {
    while (at < bytes.length && bytes[at] === SPACE) at += 1
  }
  /** Reads the one that starts at `at`, and leaves `at` behind it. */
  const readOne = (bytes: Uint8Array): 'stored' | 'cut off' | 'other' => {
    const shared = Math.min(prefix.length, bytes.length - at)
    for (let i = 0; i < shared; i++) if (bytes[at + i] !== prefix[i]) return 'other'
    at += shared
    const key = readNumber(bytes)
    skipSpaces(bytes)
    readNumber(bytes)
    skipSpaces(bytes)
    const size = readNumber(bytes)
    const end = at + 4 + size
    if (end > bytes.length) return size < LONGEST_ACK ? 'cut off' : 'other'
    const seq = bytes[at] === CR ? plainSeq(bytes, at + 2, end - 2) : undefined
    if (seq === undefined) return 'other'
    at = end
    stored(key, seq)
    return 'stored'
  }
  let held: Uint8Array | undefined
  parser.parse = (arrived) => {
    const bytes = held === undefined ? arrived : Buffer.concat([held, arrived])
    held = undefined
    let start = 0
    while (parser.state === OP_START && start < bytes.length) {
      at = start
      const found = readOne(bytes)
      if (found === 'other') break
      if (found === 'cut off') {
        held = bytes.subarray(start)
        return
      }
      start = at
    }
    if (start < bytes.length) parse.call(parser, bytes.subarray(start))
  }
  return () => {
    parser.parse = parse
    if (held !== undefined) parse.call(parser, held)
  }
}
