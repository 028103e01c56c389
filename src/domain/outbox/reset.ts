import type { Nats } from '../../adapters/nats/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import { eventStreamOf, type Service, schemaOf } from '../../service.ts'
import { acquireLease, releaseLease } from './lease.ts'
import { loadPosition, NOTHING_DONE, savePosition } from './position.ts'

export interface ResetPlan {
  service: Service
  /** Events created from this time on are published where the stream lacks them; all older ones count as published. */
  since: string
  events: number
  republish: number
  savedIn: string
  here: string
}

/**
 * What a reset would do; reads only.
 *
 * @throws TabibError NOT_NEEDED when the outbox was not restored: a replay is what is wanted then. USAGE for a mapped
 * table, whose transaction ids are not ours to change.
 */
export async function planReset(
  { db, config }: { db: Database; config: Pick<Config, 'outbox'> },
  { service, since }: { service: Service; since: Date },
): Promise<ResetPlan> {
  if (config.outbox.tables[service]) {
    throw new TabibError(
      'USAGE',
      `the ${service} outbox is a mapped table: reset it by hand, as docs/outbox.md says`,
    )
  }
  const restored = await restoredFrom(db, service)
  if (!restored) {
    throw new TabibError(
      'NOT_NEEDED',
      `the ${service} outbox was not restored: its cursor is good, nothing needs a reset`,
      {
        suggestions: [`tabib outbox replay --service ${service} --since ${since.toISOString()} --dry-run`],
      },
    )
  }
  const [counts] = await db.query<{ events: number; republish: number }>(
    `select count(*)::float8 as events, count(*) filter (where created_at >= $1)::float8 as republish
     from ${schemaOf(service)}.outbox`,
    [since],
  )
  return { service, since: since.toISOString(), events: 0, republish: 0, ...counts, ...restored }
}

/**
 * Takes a restored outbox up again in this cluster: rewrites the transaction ids and starts a position that counts
 * everything before `since` as published. Runs in one transaction under the lease, so no relay sees half of it.
 *
 * @throws TabibError LOCKED when a relay holds the lease; NATS_UNREACHABLE, since the stream tells where to look.
 */
export async function applyReset(
  { db, nats }: { db: Database; nats: Nats },
  { service, since, runId }: { service: Service; since: Date; runId: string },
): Promise<{ republish: number; settled: number }> {
  const streamSeq = await lastBefore(nats, service, new Date(since.getTime() - CLOCKS_APART_MS))
  const attempt = await acquireLease({ db }, { service, holder: `outbox reset ${runId}`, ttlMs: 60_000 })
  if (attempt.kind === 'standby') {
    throw new TabibError('LOCKED', `${attempt.holder} relays the ${service} outbox; stop it first`, {
      suggestions: ['tabib worker list'],
    })
  }
  try {
    return await db.transaction(async (tx) => {
      const [reset] = await tx.query<{ done: string; republished: bigint; settled: bigint }>(
        'select done::text, republished, settled from tabib.reset_outbox($1, $2)',
        [schemaOf(service), since],
      )
      if (!reset) throw new TabibError('BUG', 'reset_outbox returned nothing')
      const position = { ...NOTHING_DONE, done: reset.done, streamSeq }
      if (!(await savePosition({ db: tx }, attempt.lease, position))) {
        throw new TabibError('LOCKED', `a relay took the ${service} outbox over meanwhile`)
      }
      return { republish: Number(reset.republished), settled: Number(reset.settled) }
    })
  } finally {
    await releaseLease({ db }, attempt.lease)
  }
}

// How far the clock of NATS may be behind that of Postgres.
const CLOCKS_APART_MS = 300_000

/** The last message stored before a time: what the relay looks for was created since, and lies behind it. */
async function lastBefore(nats: Nats, service: Service, time: Date): Promise<number> {
  const stream = eventStreamOf(service)
  for await (const { seq } of nats.messages(stream, time)) return seq - 1
  return (await nats.stream(stream))?.state.last_seq ?? 0
}

async function restoredFrom(
  db: Database,
  service: Service,
): Promise<{ savedIn: string; here: string } | undefined> {
  try {
    await loadPosition({ db }, service)
    return undefined
  } catch (error) {
    if (!(error instanceof TabibError) || error.code !== 'OUTBOX_RESTORED') throw error
    return { savedIn: String(error.context.savedIn), here: String(error.context.here) }
  }
}
