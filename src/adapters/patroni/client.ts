import * as z from 'zod'
import { TabibError } from '../../errors.ts'
import type { Fetch } from '../http/client.ts'

export interface PatroniOptions {
  /** REST API of the cluster's members; any that answers will do. */
  urls: readonly string[]
  fetch: Fetch
  timeoutMs?: number
  /** `user:password` for what changes something. */
  credentials?: string | undefined
}

export interface PatroniMember {
  name: string
  /** `leader`, `standby_leader`, `replica`, `sync_standby`. */
  role: string
  state: string
  /** As set in the member's own configuration; values as they stand there. */
  tags: Record<string, unknown>
}

/** A member, and where it and its Postgres listen. */
export interface ListedMember extends PatroniMember {
  apiUrl: string
  host: string
  port: number | undefined
}

/** What one member says of itself. */
export interface PatroniNode {
  scope: string
  systemIdentifier: string | undefined
  /** `running`, `starting`, `start failed`, `stopped`, … */
  state: string
  /** `primary` (which version 3 calls `master`), `replica`, `standby_leader`. */
  role: string
  timeline: number | undefined
  /** In bytes: written by a primary; received by a replica, or replayed where that is further. */
  lsn: bigint | undefined
  /** Whether Patroni leaves everything to the operator. */
  paused: boolean
  /** Seconds since it last spoke with the store, by its own clock. */
  storeSilentS: number | undefined
  /** When its Postgres was started, in its own words: the same by whatever address it is asked. */
  startedAt: string | undefined
  tags: Record<string, unknown>
  /** Whether it is to have a watchdog and has none that works. */
  watchdogFailed: boolean
  /** Members that replicate from it, by `pg_stat_replication`. */
  replicas: { name: string; state: string; sync: string }[]
}

/** The dynamic configuration, with Patroni's own defaults for what it leaves out. */
export interface PatroniSettings {
  ttlS: number
  loopWaitS: number
  retryTimeoutS: number
  maximumLag: bigint
  synchronous: boolean
  /** Commits wait while there is no synchronous standby. */
  strict: boolean
  checkTimeline: boolean
  paused: boolean
  standbyCluster: boolean
}

export interface PatroniCluster {
  scope: string
  /** Of the Postgres cluster: the same in a primary and all that replicate it. */
  systemIdentifier: string
  members: PatroniMember[]
}

export interface Patroni {
  /** @throws TabibError PATRONI_UNREACHABLE when no member gave a whole answer in time. */
  cluster(): Promise<Omit<PatroniCluster, 'members'> & { members: ListedMember[] }>
  /** @throws TabibError PATRONI_UNREACHABLE */
  settings(): Promise<PatroniSettings>
  /** Asks one member about itself. @throws TabibError PATRONI_UNREACHABLE */
  node(url: string): Promise<PatroniNode>
  /**
   * Asks for another leader: an orderly change where there is one (`leader` names it), a takeover where there is none.
   * Returns Patroni's own words once it has happened, or once Patroni looks no longer whether it does.
   * @throws TabibError CLUSTER_REFUSED with Patroni's words, NOT_AUTHORISED, PATRONI_UNREACHABLE
   */
  lead(candidate: { name: string; apiUrl: string }, options: { leader?: string | undefined }): Promise<string>
}

// What is printed to be pasted holds nothing that a terminal obeys.
const word = z.string().regex(/^[^\p{Cc}]+$/u)
const members = z.object({
  members: z.array(
    z.object({
      name: word,
      role: z.string(),
      state: z.string(),
      tags: z.record(z.string(), z.unknown()).default({}),
      api_url: z.string().default(''),
      host: word.or(z.literal('')).default(''),
      port: z.number().optional(),
    }),
  ),
})
const identity = z.object({
  database_system_identifier: z.string(),
  patroni: z.object({ scope: word }),
})
// JSON.parse rounds positions over 2^53, which is 8 PiB of WAL.
const position = z
  .int()
  .transform((bytes) => BigInt(bytes))
  .nullish()
const node = z.object({
  database_system_identifier: z.string().optional(),
  patroni: z.object({ scope: word }),
  state: z.string(),
  role: z.string(),
  timeline: z.number().nullish(),
  xlog: z
    .object({ location: position, received_location: position, replayed_location: position })
    .default({}),
  pause: z.boolean().default(false),
  dcs_last_seen: z.number().optional(),
  postmaster_start_time: z.string().nullish(),
  tags: z.record(z.string(), z.unknown()).default({}),
  watchdog_failed: z.boolean().default(false),
  replication: z
    .array(z.object({ application_name: z.string(), state: z.string(), sync_state: z.string() }))
    .default([]),
})
// As Patroni takes them, since it is whoever edits them that says `on` or `"30"`; `quorum` is of version 4.
const numeral = z.coerce.number()
const flag = z
  .unknown()
  .default(false)
  .transform((value) => /^(on|true|yes|1|quorum)$/i.test(String(value)))
const settings = z.object({
  ttl: numeral.default(30),
  loop_wait: numeral.default(10),
  retry_timeout: numeral.default(10),
  maximum_lag_on_failover: numeral.default(1_048_576),
  synchronous_mode: flag,
  synchronous_mode_strict: flag,
  check_timeline: flag,
  pause: flag,
  standby_cluster: z
    .object({ host: z.unknown(), port: z.unknown(), restore_command: z.unknown() })
    .partial()
    .nullish(),
})

/** The only client of Patroni's REST API (version 3). */
export function openPatroni({ urls, fetch, timeoutMs = 5_000, credentials }: PatroniOptions): Patroni {
  /** `at`: Unix seconds of the answer by the member's own clock, where it tells. */
  const ask = async <T>(
    base: string,
    path: string,
    shape: z.ZodType<T>,
  ): Promise<{ body: T; at: number }> => {
    const response = await fetch(`${base.replace(/\/+$/, '')}${path}`, {
      signal: AbortSignal.timeout(timeoutMs),
    })
    // /patroni answers 503 with the same body where Postgres is down.
    const told = Date.parse(response.headers.get('date') ?? '')
    const at = (Number.isNaN(told) ? Date.now() : told) / 1_000
    return { body: shape.parse(await response.json()), at }
  }
  const get = async <T>(base: string, path: string, shape: z.ZodType<T>): Promise<T> =>
    (await ask(base, path, shape)).body
  // All at once: in a disaster some of them are gone, and waiting for each in turn would take too long.
  const first = async <T>(ask: (base: string) => Promise<T>, of: readonly string[] = urls): Promise<T> => {
    try {
      return await Promise.any(of.map(ask))
    } catch (cause) {
      const errors = (cause as AggregateError).errors as Error[]
      throw new TabibError(
        'PATRONI_UNREACHABLE',
        `Patroni gave no answer: ${of.map((url, i) => `${URL.canParse(url) ? new URL(url).host : `no address "${url}"`}: ${reasonOf(errors[i], timeoutMs)}`).join('; ')}`,
        { cause, suggestions: of.map((url) => `curl ${url}/cluster`) },
      )
    }
  }
  return {
    cluster: () =>
      first(async (base) => {
        const [list, own] = await Promise.all([
          get(base, '/cluster', members),
          get(base, '/patroni', identity),
        ])
        return {
          scope: own.patroni.scope,
          systemIdentifier: own.database_system_identifier,
          members: list.members.map(({ api_url, ...member }) => ({
            ...member,
            port: member.port,
            apiUrl: api_url.replace(/\/patroni\/?$/, ''),
          })),
        }
      }),
    settings: () =>
      first(async (base) => {
        const own = await get(base, '/config', settings)
        const standby = own.standby_cluster
        return {
          ttlS: own.ttl,
          loopWaitS: own.loop_wait,
          retryTimeoutS: own.retry_timeout,
          maximumLag: BigInt(Math.trunc(own.maximum_lag_on_failover)),
          synchronous: own.synchronous_mode,
          strict: own.synchronous_mode_strict,
          checkTimeline: own.check_timeline,
          paused: own.pause,
          standbyCluster: Boolean(standby?.host || standby?.port || standby?.restore_command),
        }
      }),
    node: (url) =>
      first(
        async (base) => {
          const { body: own, at } = await ask(base, '/patroni', node)
          const { location, received_location: received, replayed_location: replayed } = own.xlog
          const [reached] = [received ?? 0n, replayed ?? 0n].sort((a, b) => (a > b ? -1 : 1)) as [bigint]
          return {
            scope: own.patroni.scope,
            systemIdentifier: own.database_system_identifier,
            state: own.state,
            role: own.role === 'master' ? 'primary' : own.role,
            timeline: own.timeline ?? undefined,
            lsn: location ?? (reached > 0n ? reached : undefined),
            paused: own.pause,
            storeSilentS: own.dcs_last_seen === undefined ? undefined : Math.max(0, at - own.dcs_last_seen),
            startedAt: own.postmaster_start_time ?? undefined,
            tags: own.tags,
            watchdogFailed: own.watchdog_failed,
            replicas: own.replication.map(({ application_name: name, state, sync_state: sync }) => ({
              name,
              state,
              sync,
            })),
          }
        },
        [url],
      ),
    async lead({ name: candidate, apiUrl }, { leader }) {
      // Patroni answers when it is done, or when it has given up waiting: its time limits are longer than a reading's.
      const response = await first(
        (base) =>
          fetch(`${base}/${leader === undefined ? 'failover' : 'switchover'}`, {
            method: 'POST',
            body: JSON.stringify({ candidate, ...(leader === undefined ? {} : { leader }) }),
            signal: AbortSignal.timeout(CHANGE_LIMIT_MS),
            ...(credentials === undefined
              ? {}
              : { headers: { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` } }),
          }),
        // Of the one alone that must be there: to two it would be two requests.
        [apiUrl],
      )
      const words = (await response.text()).trim()
      // It gave up looking: what was asked for may still come.
      if (response.ok || /status unknown/.test(words)) return words
      if (response.status === 401 || response.status === 403) {
        throw new TabibError('NOT_AUTHORISED', `Patroni refused: ${words}`, {
          suggestions: ['set cluster.credentialsFile in tabib.yaml to a file with user:password'],
        })
      }
      throw new TabibError('CLUSTER_REFUSED', `Patroni refused: ${words} (HTTP ${response.status})`, {
        suggestions: ['tabib cluster diagnose'],
      })
    },
  }
}

const CHANGE_LIMIT_MS = 60_000

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
