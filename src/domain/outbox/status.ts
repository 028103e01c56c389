import { type Database, isDatabaseAway } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import type { Service } from '../../service.ts'
import { outboxLag, outboxPending, relayLiveness } from './backlog.ts'
import { type PreflightState, readPreflight } from './preflight.ts'

/** One service's outbox as an operator sees it. */
export interface OutboxStatus {
  service: Service
  state: 'ok' | 'behind' | 'not-relayed' | 'poison' | 'restored' | 'preflight' | 'unreachable'
  pending: number | null
  lagS: number | null
  relay: string | null
  leaseS: number | null
  lastSavedAt: Date | null
  /** Events in quarantine that wait for a person. */
  poison: number
  /** Events that wait behind those. */
  held: number
  poisonBy: { reason: string; events: number; aggregateType: string; oldest: Date; exampleId: string }[]
  /** Oldest published event that is still kept, hence can be replayed. */
  keptSince: Date | null
  note: string | null
  /** Writes that were accepted while Postgres took none, on this host; null where there is no preflight. */
  preflight: (PreflightState & { maxBytes: number }) | null
}

// billing/FM-17 and communication/C06 call this behind.
const BEHIND_S = 30

/**
 * Lag, backlog, relay and poison of one outbox; reads only. A restored outbox is said, not thrown; so is, where writes
 * may wait outside Postgres, a Postgres that does not answer.
 */
export async function outboxStatus(
  app: { db: Database; config: Pick<Config, 'outbox'> },
  { service }: { service: Service },
): Promise<OutboxStatus> {
  const { preflight: place } = app.config.outbox
  if (place === undefined) return readOutbox(app, service)
  const preflight =
    service === 'communication' ? { ...(await readPreflight(place.folder)), maxBytes: place.maxBytes } : null
  const waits = preflight !== null && preflight.waiting + preflight.refused + preflight.damaged > 0
  try {
    const status = await readOutbox(app, service)
    return { ...status, preflight, state: status.state === 'ok' && waits ? 'preflight' : status.state }
  } catch (error) {
    if (!isDatabaseAway(error)) throw error
    return { ...UNKNOWN, service, state: 'unreachable', note: (error as Error).message, preflight }
  }
}

const UNKNOWN = {
  pending: null,
  lagS: null,
  relay: null,
  leaseS: null,
  lastSavedAt: null,
  poison: 0,
  held: 0,
  poisonBy: [],
  keptSince: null,
}

async function readOutbox(
  app: { db: Database; config: Pick<Config, 'outbox'> },
  service: Service,
): Promise<OutboxStatus> {
  const poisonBy = await app.db.query<OutboxStatus['poisonBy'][number]>(
    `select reason, count(*)::float8 as events, aggregate_type as "aggregateType", min(quarantined_at) as oldest,
            (array_agg(id::text order by quarantined_at))[1] as "exampleId"
     from tabib.quarantine where service = $1 and origin = 'outbox' and state in ('open', 'redriving')
     group by reason, aggregate_type order by min(quarantined_at)`,
    [service],
  )
  const [rest] = await app.db.query<{ held: number; saved: Date | null; kept: Date | null }>(
    `select (select count(*) from tabib.quarantine where service = $1 and origin = 'outbox' and state = 'held')::float8 as held,
            (select at from tabib.outbox_progress where service = $1 order by epoch desc, n desc limit 1) as saved,
            (select min(to_date(right(c.relname, 8), 'YYYYMMDD'))::timestamp at time zone 'UTC'
             from pg_inherits i join pg_class c on c.oid = i.inhrelid
             where i.inhparent = to_regclass($2) and c.relname ~ '^outbox_p[0-9]{8}$') as kept`,
    [service, `${service.replace('-', '_')}.outbox`],
  )
  const poison = poisonBy.reduce((sum, { events }) => sum + events, 0)
  const common = {
    service,
    lastSavedAt: rest?.saved ?? null,
    poison,
    held: rest?.held ?? 0,
    poisonBy,
    keptSince: rest?.kept ?? null,
    preflight: null,
  }
  try {
    const pending = await outboxPending(app, { service })
    const lagS = await outboxLag(app, { service })
    const { live, holder, leaseS } = await relayLiveness(app, { service })
    const state = live === 0 ? 'not-relayed' : lagS > BEHIND_S ? 'behind' : poison > 0 ? 'poison' : 'ok'
    return { ...common, state, pending, lagS, relay: leaseS > 0 ? holder : null, leaseS, note: null }
  } catch (error) {
    if (!(error instanceof TabibError) || error.code !== 'OUTBOX_RESTORED') throw error
    return {
      ...common,
      state: 'restored',
      pending: null,
      lagS: null,
      relay: null,
      leaseS: null,
      note: error.message,
    }
  }
}
