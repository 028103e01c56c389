import { readFile } from 'node:fs/promises'
import { TabibError } from '../../errors.ts'
import type { Fetch } from './client.ts'

/** Under what a message is sent. */
export interface Once {
  /** However often it is sent under it, it arrives once: as far as the provider, the device or the mailbox can tell. */
  key: string
}

export interface Delivery {
  /** The provider's id of the message. */
  providerId: string
}

const TIMEOUT_MS = 10_000

/**
 * Posts one message as JSON. Errors carry a status and nothing of what the provider answered: it likes to repeat whom
 * and what it was sent.
 *
 * @throws TabibError PROVIDER_UNREACHABLE, retryable when it was not refused for what it holds.
 */
export async function postToProvider({
  provider,
  url,
  fetch,
  tokenFile,
  timeoutMs = TIMEOUT_MS,
  key,
  body,
  idOf,
}: {
  provider: string
  url: string
  fetch: Fetch
  tokenFile: string | undefined
  timeoutMs: number | undefined
  key: string
  body: object
  idOf(answer: Record<string, unknown>): unknown
}): Promise<Delivery> {
  const headers: Record<string, string> = { 'content-type': 'application/json', 'idempotency-key': key }
  if (tokenFile !== undefined) headers.authorization = `Bearer ${(await readFile(tokenFile, 'utf8')).trim()}`
  let response: Response
  let answer: unknown
  try {
    response = await fetch(url, {
      ...{ method: 'POST', headers, body: JSON.stringify(body), redirect: 'error' },
      signal: AbortSignal.timeout(timeoutMs),
    })
    answer = await response.json().catch(() => undefined)
  } catch (cause) {
    if (cause instanceof TabibError) throw cause
    throw unreachable(`${provider} cannot be reached at ${new URL(url).host}`, true, cause)
  }
  if (!response.ok) {
    const retryable = response.status >= 500 || response.status === 429 || response.status === 408
    throw unreachable(`${provider} answered ${response.status}`, retryable)
  }
  const id =
    typeof answer === 'object' && answer !== null ? idOf(answer as Record<string, unknown>) : undefined
  if (typeof id !== 'string' || id === '') throw unreachable(`${provider} answered without an id`, true)
  return { providerId: id }
}

export const unreachable = (message: string, retryable: boolean, cause?: unknown) =>
  new TabibError('PROVIDER_UNREACHABLE', message, {
    suggestions: ['tabib doctor'],
    retryable,
    ...(cause === undefined ? {} : { cause }),
  })
