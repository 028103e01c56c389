import { createInbox, type MsgHdrs, type NatsConnection } from '@nats-io/transport-node'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { envelope } from '../../src/domain/outbox/envelope.ts'
import { NOTHING_DONE } from '../../src/domain/outbox/position.ts'
import { outboxSource } from '../../src/domain/outbox/source.ts'
import { openWindowReader } from '../../src/domain/outbox/window.ts'
import { childEnv, connectNats, report } from './child.ts'

// The limit: the very bytes that the relay sends, from memory, by the library's own publish, with nothing else to do.
// argv: how many events to take, how many times to publish them, from the second time on under other ids
const IN_FLIGHT = 4_096
const [limit = Number.POSITIVE_INFINITY, times = 1] = process.argv.slice(2).map(Number)

interface Ready {
  subject: string
  headers: MsgHdrs
  encoded: Buffer
  payload: Uint8Array
}

async function load(): Promise<Ready[]> {
  await using db = openDatabase({ url: childEnv('TABIB_DATABASE_URL') })
  await using connection = await db.connection()
  const source = outboxSource('billing')
  const reader = await openWindowReader(connection, source, { maxDataBytes: 1_048_576 })
  const ready: Ready[] = []
  for (let position = NOTHING_DONE, more = true; more; ) {
    const page = await reader.read(position, 10_000)
    if (!page || ready.length >= limit) break
    for (const row of page.rows) {
      const wrapped = envelope(row, { service: 'billing', maxPayload: 1_048_576, dataIsJsonb: true })
      if (wrapped.kind === 'poison') throw new Error(wrapped.detail)
      const { subject, headers, payload } = wrapped.message
      const encoded = Buffer.from(headers)
      // Encoded beforehand, so that the limit is not lowered by the library's encoding of headers.
      ready.push({
        subject,
        headers: { encode: () => encoded } as unknown as MsgHdrs,
        encoded,
        payload: Buffer.from(payload),
      })
    }
    position = page.after
    more = page.more
  }
  return ready
}

const ID_HEADER = 'Nats-Msg-Id: '

function publishAll(nc: NatsConnection, messages: Ready[]): Promise<void> {
  const inbox = `${createInbox()}.`
  const total = times * messages.length
  const idAt = messages[0]!.encoded.indexOf(ID_HEADER) + ID_HEADER.length
  let next = 0
  let acknowledged = 0
  const pump = () => {
    while (next - acknowledged < IN_FLIGHT && next < total) {
      const { subject, headers, encoded, payload } = messages[next % messages.length]!
      const time = Math.floor(next / messages.length)
      // The last time it was sent is long over; no id of an event begins with an `r`.
      if (time > 0) encoded.write(`r${time}`.padEnd(4, '-'), idAt, 'latin1')
      nc.publish(subject, payload, { headers, reply: `${inbox}${next}` })
      next += 1
    }
  }
  return new Promise((resolve) => {
    nc.subscribe(`${inbox}*`, {
      callback: () => {
        acknowledged += 1
        if (acknowledged === total) resolve()
        else if (next - acknowledged <= IN_FLIGHT * 0.75) pump()
      },
    })
    pump()
  })
}

const messages = await load()
const nc = await connectNats()
const before = process.cpuUsage()
await publishAll(nc, messages)
report(process.cpuUsage(before))
await nc.close()
