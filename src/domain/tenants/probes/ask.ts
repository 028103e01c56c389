import type { Fetch } from '../../../adapters/http/client.ts'
import { TabibError } from '../../../errors.ts'

export interface Answer {
  status: number
  text: string
}

const TIMEOUT_MS = 5_000
const MAX_CHARACTERS = 256 * 1_024

/**
 * Sends one request to a tenant's server: in the clear to this machine alone, without following redirects, for five
 * seconds at most.
 * @returns the answer, or what kept it from coming as words for an operator.
 */
export async function ask(fetch: Fetch, url: string, request: RequestInit = {}): Promise<Answer | string> {
  const { protocol, hostname } = new URL(url)
  if (protocol !== 'https:' && !/^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname)) {
    return 'it is not asked without TLS'
  }
  try {
    const response = await fetch(url, {
      ...request,
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    return { status: response.status, text: await startOf(response) }
  } catch (error) {
    return reasonOf(error)
  }
}

/** As much of the body as anybody needs: a server that never ends its answer must not fill the memory. */
async function startOf(response: Response): Promise<string> {
  let text = ''
  const decoder = new TextDecoder()
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true })
    if (text.length > MAX_CHARACTERS) break
  }
  return text
}

function reasonOf(error: unknown): string {
  if (error instanceof TabibError) return error.message
  if (!(error instanceof Error)) return String(error)
  if (error.name === 'TimeoutError') return `no answer within ${TIMEOUT_MS / 1_000} s`
  return error.cause instanceof Error ? reasonOf(error.cause) : error.message
}

/** `work` for each item, so many at a time, results in the order of the items. */
export async function pooled<T, R>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length)
  const left = items.entries()
  const lane = async () => {
    for (const [i, item] of left) results[i] = await work(item)
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, lane))
  return results
}
