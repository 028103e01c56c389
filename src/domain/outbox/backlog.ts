import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import type { Service } from '../../service.ts'
import { loadPosition, lowsOf, type Position, parseSnapshot } from './position.ts'
import { lateRows, type OutboxSource, outboxSource, youngOrder, youngRows } from './source.ts'

/** What the measures of an outbox need; an App is one. */
export interface OutboxReader {
  db: Queryable
  config: Pick<Config, 'outbox'>
}

/**
 * Committed events that are not published yet. Events in quarantine don't count: they wait for a person.
 *
 * @throws TabibError OUTBOX_RESTORED when the cursor belongs to another cluster.
 */
export async function outboxPending(app: OutboxReader, { service }: { service: Service }): Promise<number> {
  const source = outboxSource(service, app.config.outbox.tables[service])
  const { table, column: c } = source
  const position = await loadPosition(app, service)
  if (!source.hasXid) return (await waitingByNumber(app, source, position)).pending
  const { done, target, afterSeq, floor, lows } = position
  const { xmax, xip } = parseSnapshot(done)
  // Transactions that `done` had not seen: younger ones, and those that were open when it was taken.
  const [row] = await app.db.query<{ pending: number }>(
    `select (
       (select count(*) from ${table} where ${youngRows(source, '$1', '$5')} and ${unpublished(c)}) +
       (select count(*) from (${lateRows(source, `${c.seq}, ${c.xid}`, late)}) late where ${unpublished(c)})
     )::float8 as pending`,
    [xmax, xip, target, afterSeq, floor, lows],
  )
  return row?.pending ?? 0
}

/**
 * Age in seconds of the oldest committed event that is not published yet; 0 when there is none. The oldest is sought
 * among the first 1,000 in line, so that a backlog of millions is not read to its end.
 *
 * @throws TabibError OUTBOX_RESTORED when the cursor belongs to another cluster.
 */
export async function outboxLag(app: OutboxReader, { service }: { service: Service }): Promise<number> {
  const source = outboxSource(service, app.config.outbox.tables[service])
  const { table, column: c } = source
  const position = await loadPosition(app, service)
  if (!source.hasXid) return (await waitingByNumber(app, source, position)).lagS
  const { done, target, afterSeq, floor } = position
  const { xmax, xip } = parseSnapshot(done)
  // Within a window what is left lies behind `afterSeq`; in transaction order one would first pass all that is done.
  const inLine = target === null ? `order by ${youngOrder(source)}` : `and ${c.seq} > $4 order by ${c.seq}`
  const open = target === null ? xip : [...xip, ...parseSnapshot(target).xip]
  const [row] = await app.db.query<{ lag_s: number | null }>(
    `select greatest(0, extract(epoch from clock_timestamp() - min(created_at)))::float8 as lag_s
     from (
       (select ${c.created_at} as created_at from ${table}
        where ${youngRows(source, '$1', '$5')} and ${unpublished(c)} ${inLine} limit 1000)
       union all
       (select ${c.created_at} from (${lateRows(source, `${c.seq}, ${c.xid}, ${c.created_at}`, late)}) late
        where ${unpublished(c)})
     ) waiting`,
    [xmax, open, target, afterSeq, floor, lowsOf(position, open)],
  )
  return row?.lag_s ?? 0
}

const late = { xip: '$2', lows: '$6', floor: '$5' }

const unpublished = (c: { xid: string; seq: string }): string =>
  `($3::pg_snapshot is null or ${c.seq} > $4::bigint or not pg_visible_in_snapshot(${c.xid}, $3::pg_snapshot))`

/** Pending and lag of a mapped outbox without transaction ids: above the highest number seen, and in the gaps below. */
async function waitingByNumber(
  app: OutboxReader,
  { table, column: c }: OutboxSource,
  { afterSeq, gaps }: Position,
): Promise<{ pending: number; lagS: number }> {
  const [row] = await app.db.query<{ pending: number; lag_s: number }>(
    `select count(*)::float8 as pending,
            coalesce(greatest(0, extract(epoch from clock_timestamp() - min(created_at))), 0)::float8 as lag_s
     from (
       (select ${c.created_at} as created_at from ${table} where ${c.seq} > $1)
       union all
       (select ${c.created_at} from unnest($2::bigint[], $3::bigint[]) as gap (low, high)
        join ${table} on ${c.seq} between gap.low and gap.high)
     ) waiting`,
    [afterSeq, gaps.map(({ low }) => low), gaps.map(({ high }) => high)],
  )
  return { pending: row?.pending ?? 0, lagS: row?.lag_s ?? 0 }
}

/** Condition, with its first parameters, for rows that are published already. */
export function publishedRows(
  { hasXid, column: c }: OutboxSource,
  { done, afterSeq, gaps }: Position,
): { sql: string; values: unknown[] } {
  if (hasXid) return { sql: `pg_visible_in_snapshot(${c.xid}, $1::pg_snapshot)`, values: [done] }
  return {
    sql: `${c.seq} <= $1::bigint and not exists (
      select from unnest($2::bigint[], $3::bigint[]) as gap (low, high) where ${c.seq} between gap.low and gap.high)`,
    values: [afterSeq, gaps.map(({ low }) => low), gaps.map(({ high }) => high)],
  }
}

/** Writes down pending and lag of now, and forgets samples older than an hour: what `outboxClimb` judges. */
export async function sampleOutbox(app: OutboxReader, { service }: { service: Service }): Promise<void> {
  const [pending, lagS] = [await outboxPending(app, { service }), await outboxLag(app, { service })]
  await app.db.query(
    `with forgotten as (
       delete from tabib.outbox_sample where service = $1 and at < now() - interval '1 hour'
     )
     insert into tabib.outbox_sample (service, at, pending, lag_s) values ($1, clock_timestamp(), $2, $3)
     on conflict do nothing`,
    [service, pending, lagS],
  )
}

export interface Climb {
  /** Above zero when both climb; undefined when either half of the window has fewer than two samples. */
  value: number | undefined
  evidence: { pending: number; lagS: number; samples: number }
}

/**
 * Whether pending and lag both climb over the last `overS` seconds, by the samples and the figures of now: the least of
 * the later half against the most of the earlier half, and of the two rises the smaller. Ups and downs of normal work
 * never rise so, and a backlog that was just drained rises no more.
 */
export async function outboxClimb(
  app: OutboxReader,
  { service, overS }: { service: Service; overS: number },
): Promise<Climb> {
  const [pending, lagS] = [await outboxPending(app, { service }), await outboxLag(app, { service })]
  const [row] = await app.db.query<{ rise: number | null; enough: boolean; samples: number }>(
    `select least(
              min(pending) filter (where later) - max(pending) filter (where not later),
              min(lag_s) filter (where later) - max(lag_s) filter (where not later))::float8 as rise,
            count(*) filter (where later) > 1 and count(*) filter (where not later) > 1 as enough,
            count(*)::int as samples
     from (
       select pending, lag_s, at > now() - make_interval(secs => $2 / 2) as later
       from tabib.outbox_sample
       where service = $1 and at > now() - make_interval(secs => $2)
       union all
       select $3::bigint, $4::float8, true
     ) recent`,
    [service, overS, pending, lagS],
  )
  const value = row?.enough && row.rise !== null ? row.rise : undefined
  return { value, evidence: { pending, lagS, samples: row?.samples ?? 0 } }
}

export interface Liveness {
  /** 1: a relay holds the lease, or nothing waits. 0: events wait and nobody relays them. */
  live: 0 | 1
  holder: string | null
  /** Seconds until the lease runs out; negative when it has. */
  leaseS: number
  lagS: number
}

/** Whether somebody relays a service's outbox. Ten seconds without a lease are borne: a standby may be taking over. */
export async function relayLiveness(app: OutboxReader, { service }: { service: Service }): Promise<Liveness> {
  const [lease] = await app.db.query<{ holder: string | null; held: boolean; lease_s: number }>(
    `select holder, not released and expires_at > clock_timestamp() as held,
            case when released or not isfinite(expires_at) then 0
                 else extract(epoch from expires_at - clock_timestamp()) end::float8 as lease_s
     from tabib.outbox_lease where service = $1`,
    [service],
  )
  const lagS = await outboxLag(app, { service })
  const live = lease?.held || lagS <= HANDOVER_S ? 1 : 0
  return { live, holder: lease?.holder ?? null, leaseS: lease?.lease_s ?? 0, lagS }
}

const HANDOVER_S = 10
