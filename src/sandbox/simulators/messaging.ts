import { randomUUID } from 'node:crypto'
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
    linkHosts: string[]
  }
  /**
   * What arrived, in order, as whom it is for sees it: of what is sent again under one key the gateway sends one, the phone
   * shows one (FCM itself sends all), the mailbox keeps one (the server takes all).
   */
  readonly arrived: readonly Arrived[]
  /** How often anything was taken on, the repeated included. */
  readonly taken: number
  /** The status that HTTP is answered with from now on; 200 to work again. */
  answer(status: number): void
  /** Once so many were taken on in all, nobody is answered, whatever is taken on; settles then. `answer` goes on. */
  hangAt(taken: number): Promise<void>
}

/** The SMS gateway and FCM over HTTP, and a mail server over SMTP (RFC 5321), on the loopback interface. */
export async function startMessagingProviders(): Promise<MessagingProviders> {
  const arrived: Arrived[] = []
  const known = new Set<string>()
  let status = 200
  let taken = 0
  let hang: { at: number; begun(): void } | undefined
  /** Returns whether it is answered. */
  const take = (key: string, message: Arrived): boolean => {
    taken += 1
    if (!known.has(key)) arrived.push(message)
    known.add(key)
    if (hang === undefined || taken < hang.at) return true
    hang.begun()
    return false
  }
  const http = createServer(async (request, response) => {
    const body = JSON.parse(await text(request)) as Record<string, never>
    const key = String(request.headers['idempotency-key'])
    const { message } = body as { message?: FcmMessage }
    const isAnswered =
      status !== 200 ||
      (message
        ? take(`push ${message.android?.notification.tag ?? randomUUID()}`, {
            ...{ channel: 'push', to: message.token },
            ...{ subject: message.notification.title, body: message.notification.body },
          })
        : take(`sms ${key}`, { channel: 'sms', to: body.to!, subject: '', body: body.text! }))
    if (!isAnswered) return
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(
      status === 200 ? JSON.stringify({ id: key, name: `messages/${key}` }) : '{"error":"simulated"}',
    )
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
          const { messageId, ...mail } = mailOf(line)
          if (take(`email ${messageId}`, { channel: 'email', to, ...mail })) say('250 queued')
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
      linkHosts: ['clinic.example'],
    },
    arrived,
    get taken() {
      return taken
    },
    answer(next) {
      status = next
      hang = undefined
    },
    hangAt: (at) =>
      new Promise((resolve) => {
        hang = { at, begun: resolve }
      }),
    async [Symbol.asyncDispose]() {
      http.closeAllConnections()
      await Promise.all([http, smtp].map((server) => new Promise((resolve) => server.close(resolve))))
    },
  }
}

interface FcmMessage {
  token: string
  notification: { title: string; body: string }
  android?: { notification: { tag: string } }
}

function mailOf(data: string): { messageId: string; subject: string; body: string } {
  const [head = '', ...body] = data.split('\r\n\r\n')
  const header = (name: string) => new RegExp(`^${name}: (.*)$`, 'im').exec(head)?.[1] ?? ''
  return {
    messageId: header('message-id'),
    subject: header('subject'),
    body: body.join('\n\n').trim(),
  }
}
