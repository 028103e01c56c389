import { readFile } from 'node:fs/promises'
import type { GuardedPayload, MessageContent } from '../../domain/messaging/guarded-payload.ts'
import { TabibError } from '../../errors.ts'
import type { Connect } from '../http/client.ts'
import { type Delivery, type Once, unreachable } from '../http/provider.ts'

export interface EmailOptions {
  /** `smtp://host:port`, or `smtps://` for TLS from the start. */
  url: string
  /** The platform's address that mail comes from. */
  from: string
  /** `user:password`, read at every call. */
  credentialsFile?: string | undefined
  /** The way to the server. */
  connect: Connect
  /** The guard's: opens what it has checked, and nothing else. */
  contentOf(payload: GuardedPayload): MessageContent
  timeoutMs?: number
}

export interface Email {
  /** @throws TabibError PATIENT_DATA_REFUSED, PROVIDER_UNREACHABLE */
  send(payload: GuardedPayload, once: Once): Promise<Delivery>
}

/**
 * The only client of the mail server, by SMTP. Opens nothing until it is used; one connection a message. SMTP knows no
 * key: what is sent twice has one Message-ID, by which mailboxes tell it.
 */
export function openEmail({
  url,
  from,
  credentialsFile,
  connect,
  contentOf,
  timeoutMs = 10_000,
}: EmailOptions): Email {
  return {
    async send(payload, { key }) {
      const { to, subject, body } = contentOf(payload)
      const { createTransport } = await import('nodemailer')
      const { protocol, hostname, port } = new URL(url)
      const [user = '', ...password] = credentialsFile
        ? (await readFile(credentialsFile, 'utf8')).trim().split(':')
        : []
      const server = { host: hostname, port: Number(port) || (protocol === 'smtps:' ? 465 : 587) }
      const transport = createTransport({
        ...server,
        getSocket: (_options, done) => {
          connect({ ...server, timeoutMs }).then((connection) => done(null, { connection }), done)
        },
        secure: protocol === 'smtps:',
        ...(user === ''
          ? {}
          : { auth: { user, pass: password.join(':') }, requireTLS: protocol !== 'smtps:' }),
        ...{ connectionTimeout: timeoutMs, greetingTimeout: timeoutMs, socketTimeout: timeoutMs },
        // What a message holds is never read from a file or a URL.
        ...{ disableFileAccess: true, disableUrlAccess: true },
      })
      try {
        const domain = from.slice(from.lastIndexOf('@') + 1).replace(/>$/, '')
        const messageId = `<${key}@${domain}>`
        await transport.sendMail({ from, to, subject: subject ?? '', text: body, messageId })
        return { providerId: messageId }
      } catch (cause) {
        if (cause instanceof TabibError) throw cause
        const { responseCode } = cause as { responseCode?: number }
        const what =
          responseCode === undefined ? `cannot be reached at ${hostname}` : `answered ${responseCode}`
        // Its words repeat the address.
        throw unreachable(`the mail server ${what}`, responseCode === undefined || responseCode < 500)
      } finally {
        transport.close()
      }
    },
  }
}
