import * as z from 'zod'
import { TabibError } from '../../errors.ts'
import type { Fetch } from '../http/client.ts'

export interface PatroniOptions {
  /** REST API of the cluster's members; any that answers will do. */
  urls: readonly string[]
  fetch: Fetch
  timeoutMs?: number
}

export interface PatroniMember {
  name: string
  /** `leader`, `standby_leader`, `replica`, `sync_standby`. */
  role: string
  state: string
  /** As set in the member's own configuration; values as they stand there. */
  tags: Record<string, unknown>
}

export interface PatroniCluster {
  scope: string
  /** Of the Postgres cluster: the same in a primary and all that replicate it. */
  systemIdentifier: string
  members: PatroniMember[]
}

/** Reads only. */
export interface Patroni {
  /** @throws TabibError PATRONI_UNREACHABLE when no member gave a whole answer in time. */
  cluster(): Promise<PatroniCluster>
}

const members = z.object({
  members: z.array(
    z.object({
      name: z.string(),
      role: z.string(),
      state: z.string(),
      tags: z.record(z.string(), z.unknown()).default({}),
    }),
  ),
})
const node = z.object({
  database_system_identifier: z.string(),
  patroni: z.object({ scope: z.string() }),
})

/** The only client of Patroni's REST API (version 3; no call of it changes anything). */
export function openPatroni({ urls, fetch, timeoutMs = 5_000 }: PatroniOptions): Patroni {
  const signal = () => AbortSignal.timeout(timeoutMs)
  const get = async <T>(base: string, path: string, shape: z.ZodType<T>): Promise<T> => {
    const response = await fetch(`${base.replace(/\/+$/, '')}${path}`, { signal: signal() })
    // /patroni answers 503 with the same body where Postgres is down.
    return shape.parse(await response.json())
  }
  return {
    async cluster() {
      try {
        // All at once: in a disaster some of them are gone, and waiting for each in turn would take too long.
        return await Promise.any(
          urls.map(async (base) => {
            const [{ members: list }, own] = await Promise.all([
              get(base, '/cluster', members),
              get(base, '/patroni', node),
            ])
            return {
              scope: own.patroni.scope,
              systemIdentifier: own.database_system_identifier,
              members: list,
            }
          }),
        )
      } catch (cause) {
        const errors = (cause as AggregateError).errors as Error[]
        throw new TabibError(
          'PATRONI_UNREACHABLE',
          `Patroni gave no answer: ${urls.map((url, i) => `${new URL(url).host}: ${reasonOf(errors[i], timeoutMs)}`).join('; ')}`,
          { cause, suggestions: urls.map((url) => `curl ${url}/cluster`) },
        )
      }
    },
  }
}

function reasonOf(error: Error | undefined, timeoutMs: number): string {
  if (error === undefined) return 'no answer'
  if (error.name === 'TimeoutError') return `no answer within ${timeoutMs} ms`
  if (error instanceof z.ZodError) {
    const [issue] = error.issues
    return `not Patroni’s answer (${issue?.path.join('.')}: ${issue?.message})`
  }
  if (error instanceof SyntaxError) return 'not Patroni’s answer (no JSON)'
  const { cause } = error
  return cause instanceof Error ? cause.message || String((cause as { code?: string }).code) : error.message
}
