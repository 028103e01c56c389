import type { GuardedPayload, MessageContent } from '../../domain/messaging/guarded-payload.ts'
import type { Fetch } from '../http/client.ts'
import { type Delivery, type Once, postToProvider } from '../http/provider.ts'

export interface SmsOptions {
  /** Base URL of the gateway. */
  url: string
  /** Read at every call, so that a rotated token is taken up. */
  tokenFile?: string | undefined
  fetch: Fetch
  /** The guard's: opens what it has checked, and nothing else. */
  contentOf(payload: GuardedPayload): MessageContent
  timeoutMs?: number
}

export interface Sms {
  /** @throws TabibError PATIENT_DATA_REFUSED, PROVIDER_UNREACHABLE */
  send(payload: GuardedPayload, once: Once): Promise<Delivery>
}

/** The only client of the SMS gateway (Ghasi): `POST /v1/messages`. Opens nothing until it is used. */
export function openSms({ url, tokenFile, fetch, contentOf, timeoutMs }: SmsOptions): Sms {
  return {
    async send(payload, { key }) {
      const { to, body } = contentOf(payload)
      return postToProvider({
        ...{
          provider: 'the SMS gateway',
          url: `${url.replace(/\/+$/, '')}/v1/messages`,
          fetch,
          tokenFile,
          timeoutMs,
        },
        key,
        body: { to, text: body },
        idOf: (answer) => answer.id,
      })
    },
  }
}
