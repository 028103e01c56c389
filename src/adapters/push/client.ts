import type { GuardedPayload, MessageContent } from '../../domain/messaging/guarded-payload.ts'
import type { Fetch } from '../http/client.ts'
import { type Delivery, type Once, postToProvider } from '../http/provider.ts'

export interface PushOptions {
  /** Base URL: `https://fcm.googleapis.com`. */
  url: string
  /** The Firebase project. */
  project: string
  /** An OAuth 2 access token, read at every call: it lasts an hour. */
  tokenFile?: string | undefined
  fetch: Fetch
  /** The guard's: opens what it has checked, and nothing else. */
  contentOf(payload: GuardedPayload): MessageContent
  timeoutMs?: number
}

export interface Push {
  /** @throws TabibError PATIENT_DATA_REFUSED, PROVIDER_UNREACHABLE */
  send(payload: GuardedPayload, once: Once): Promise<Delivery>
}

/** The only client of FCM's HTTP v1 API, which serves APNs as well. Opens nothing until it is used. */
export function openPush({ url, project, tokenFile, fetch, contentOf, timeoutMs }: PushOptions): Push {
  const endpoint = `${url.replace(/\/+$/, '')}/v1/projects/${encodeURIComponent(project)}/messages:send`
  return {
    async send(payload, { key }) {
      const { to, subject, body } = contentOf(payload)
      return postToProvider({
        ...{ provider: 'FCM', url: endpoint, fetch, tokenFile, timeoutMs, key },
        body: {
          message: {
            token: to,
            notification: { title: subject ?? '', body },
            // FCM sends whatever it is given: it is the device that shows one message for one tag or collapse id.
            android: { collapse_key: key, notification: { tag: key } },
            apns: { headers: { 'apns-collapse-id': key } },
          },
        },
        idOf: (answer) => answer.name,
      })
    },
  }
}
