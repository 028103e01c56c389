import { createServer } from 'node:http'
import { type AddressInfo, createServer as createSocketServer } from 'node:net'
import { text } from 'node:stream/consumers'

/** A message as it arrived on the wire. */
export interface Arrived {
  channel: 'sms' | 'push' | 'email'
  to: string
  subject: string
  body: string
}

export interface MessagingProviders extends AsyncDisposable {
  /** `messaging` of a context that sends here. */
  readonly settings: {
    sms: { url: string }
    push: { url: string; project: string }
    email: { url: string; from: string }
  }
  /** What arrived, in order; an attempt that is made again under its key arrives once. */
  readonly arrived: readonly Arrived[]
  /** The status that HTTP is answered with from now on; 200 to work again. */
  answer(status: number): void
}

/** The SMS gateway and FCM over HTTP, and a mail server over SMTP (RFC 5321), on the loopback interface. */
export async function startMessagingProviders(): Promise<MessagingProviders> {
  const arrived: Arrived[] = []
  const known = new Set<string>()
  let status = 200
  const http = createServer(async (request, response) => {
    const body = JSON.parse(await text(request)) as Record<string, never>
    const key = String(request.headers['idempotency-key'])
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(
      status === 200 ? JSON.stringify({ id: key, name: `messages/${key}` }) : '{"error":"simulated"}',
    )
    if (status !== 200 || known.has(key)) return
    known.add(key)
    const { message } = body as { message?: { token: string; notification: { title: string; body: string } } }
    if (message) {
      const { title, body } = message.notification
      arrived.push({ channel: 'push', to: message.token, subject: title, body })
    } else arrived.push({ channel: 'sms', to: body.to!, subject: '', body: body.text! })
  })
  const smtp = createSocketServer((socket) => {
    socket.setEncoding('utf8')
    socket.on('error', () => socket.destroy())
    let [held, to] = ['', '']
    let inData = false
    const say = (line: string) => socket.write(`${line}\r\n`)
    say('220 simulator ESMTP')
    socket.on('data', (chunk: string) => {
      held += chunk
      for (;;) {
        const end = held.indexOf(inData ? '\r\n.\r\n' : '\r\n')
        if (end < 0) return
        const line = held.slice(0, end)
        held = held.slice(end + (inData ? 5 : 2))
        if (inData) {
          inData = false
          arrived.push({ channel: 'email', to, ...mailOf(line) })
          say('250 queued')
        } else if (/^(EHLO|HELO)/i.test(line)) say('250 simulator')
        else if (/^RCPT/i.test(line)) {
          to = /<([^>]*)>/.exec(line)?.[1] ?? ''
          say('250 ok')
        } else if (/^DATA/i.test(line)) {
          inData = true
          say('354 go on')
        } else if (/^QUIT/i.test(line)) {
          say('221 bye')
          socket.end()
        } else say('250 ok')
      }
    })
  })
  const listening = [http, smtp].map(
    (server) => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)),
  )
  await Promise.all(listening)
  const portOf = (server: { address(): unknown }) => (server.address() as AddressInfo).port
  const url = `http://127.0.0.1:${portOf(http)}`
  return {
    settings: {
      sms: { url },
      push: { url, project: 'sandbox' },
      email: { url: `smtp://127.0.0.1:${portOf(smtp)}`, from: 'Clinic <no-reply@clinic.example>' },
    },
    arrived,
    answer(next) {
      status = next
    },
    async [Symbol.asyncDispose]() {
      http.closeAllConnections()
      await Promise.all([http, smtp].map((server) => new Promise((resolve) => server.close(resolve))))
    },
  }
}

function mailOf(data: string): { subject: string; body: string } {
  const [head = '', ...body] = data.split('\r\n\r\n')
  return { subject: /^subject: (.*)$/im.exec(head)?.[1] ?? '', body: body.join('\n\n').trim() }
}
