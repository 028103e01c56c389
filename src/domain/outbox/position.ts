import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Service } from '../../service.ts'
import type { Lease } from './lease.ts'

/** How far one outbox is published. Snapshots are Postgres's own (`pg_snapshot`), as text. */
export interface Position {
  /** Rows visible in this snapshot are published. */
  done: string
  /** The window under way, or null between windows: rows visible in it and not in `done`. */
  target: string | null
  /** Within the window, rows up to and including this seq are published. */
  afterSeq: bigint
  /** Rows of transactions that began after `done` have higher numbers; 0 where that is not known. */
  floor: bigint
  /** The same for each transaction that was open in `done`, in the order of its list. */
  lows: bigint[]
  /** Stream sequence of the last acknowledged event: what lies behind it may be ours, unrecorded. */
  streamSeq: number
  /** Only where the outbox has no transaction ids: numbers up to `afterSeq` that have not come yet, in order. */
  gaps: Gap[]
}

/** Numbers from `low` to `high` that were missing when a higher one was there. */
export interface Gap {
  low: bigint
  high: bigint
  /** Transaction id that no open transaction had reached when the gap was seen, or confirmed. */
  since: string
  /** Wall-clock milliseconds of the same moment. */
  at: number
  confirmed: boolean
}

/** A snapshot that sees no transaction: an outbox nobody has relayed yet starts here. */
export const NOTHING_DONE: Position = {
  done: '3:3:',
  target: null,
  afterSeq: 0n,
  floor: 0n,
  lows: [],
  streamSeq: 0,
  gaps: [],
}

/**
 * Reads the last saved position.
 *
 * @throws TabibError OUTBOX_RESTORED when it was saved in another cluster or database: transaction ids mean nothing
 * across a dump and restore, and going on could skip or repeat events.
 */
export async function loadPosition({ db }: { db: Queryable }, service: Service): Promise<Position> {
  const [row] = await db.query<{
    done: string
    target: string | null
    after_seq: bigint
    floor: bigint
    lows: string[]
    stream_seq: bigint
    gaps: StoredGap[] | null
    foreign: boolean
    saved_in: string
    here: string
  }>(
    `select p.done::text, p.target::text, p.after_seq, p.floor, p.lows::text[], p.stream_seq, p.gaps,
            (p.system_identifier, p.database_oid) is distinct from (here.system_identifier::text, here.oid) as foreign,
            p.system_identifier || '/' || p.database_oid as saved_in,
            here.system_identifier || '/' || here.oid as here
     from tabib.outbox_progress p,
          (select c.system_identifier, d.oid from pg_control_system() c, pg_database d
           where d.datname = current_database()) here
     where p.service = $1
     order by p.epoch desc, p.n desc
     limit 1`,
    [service],
  )
  if (!row) return { ...NOTHING_DONE }
  if (row.foreign) {
    throw new TabibError(
      'OUTBOX_RESTORED',
      `the ${service} outbox was relayed in database ${row.saved_in} and now lies in ${row.here}: it was restored from ` +
        'a dump, and its cursor means nothing here; nothing is relayed until it is reset',
      {
        suggestions: [
          `tabib outbox reset --service ${service} --since <time of the dump> --dry-run`,
          `tabib outbox status --service ${service}`,
        ],
        ref: 'runbooks/billing/fm-17-outbox-relay-behind.md',
        context: { service, savedIn: row.saved_in, here: row.here },
      },
    )
  }
  return {
    done: row.done,
    target: row.target,
    afterSeq: row.after_seq,
    floor: row.floor,
    lows: row.lows.map(BigInt),
    streamSeq: Number(row.stream_seq),
    gaps: (row.gaps ?? []).map((gap) => ({ ...gap, low: BigInt(gap.low), high: BigInt(gap.high) })),
  }
}

/** Splits `xmin:xmax:xip,…`; numbers stay text, since a full transaction id does not fit a double. */
export function parseSnapshot(snapshot: string): { xmin: string; xmax: string; xip: string[] } {
  const [xmin = '3', xmax = '3', list = ''] = snapshot.split(':')
  return { xmin, xmax, xip: list === '' ? [] : list.split(',') }
}

/** Above which number the rows of each of these transactions lie, all of which were open in `done` or began later. */
export function lowsOf({ done, floor, lows }: Position, xids: string[]): bigint[] {
  const open = new Map(parseSnapshot(done).xip.map((xid, i) => [xid, lows[i] ?? 0n]))
  return xids.map((xid) => open.get(xid) ?? floor)
}

type StoredGap = Omit<Gap, 'low' | 'high'> & { low: string; high: string }

/**
 * Appends a position under the lease's epoch; false when the lease is no longer ours (fenced), and nothing is written.
 * Saving may lag behind publishing: a successor finds what lies between in the stream, and doesn't publish it twice.
 * For the same reason the commit does not wait for the disk: a position lost with the server leaves an older one.
 */
export async function savePosition(
  { db }: { db: Queryable },
  lease: Lease,
  { done, target, afterSeq, floor, lows, streamSeq, gaps }: Position,
): Promise<boolean> {
  const saved = await db.query(
    `insert into tabib.outbox_progress
       (service, epoch, n, done, target, after_seq, stream_seq, gaps, floor, lows, system_identifier, database_oid)
     select l.service, l.epoch,
            coalesce((select max(p.n) from tabib.outbox_progress p where p.service = $1 and p.epoch = $2), 0) + 1,
            $4::pg_snapshot, $5::pg_snapshot, $6, $7, $8, $9, $10, c.system_identifier::text, d.oid
     from tabib.outbox_lease l, pg_control_system() c, pg_database d, set_config('synchronous_commit', 'off', true)
     where l.service = $1 and l.epoch = $2 and l.holder = $3 and not l.released and d.datname = current_database()
     returning n`,
    [
      lease.service,
      lease.epoch,
      lease.holder,
      done,
      target,
      afterSeq,
      streamSeq,
      gaps.length === 0 ? null : gapsAsJson(gaps),
      floor,
      lows,
    ],
    'outbox_position_save',
  )
  return saved.length > 0
}

const gapsAsJson = (gaps: Gap[]): string =>
  JSON.stringify(gaps.map((gap) => ({ ...gap, low: gap.low.toString(), high: gap.high.toString() })))

/** Deletes positions that a later one has replaced; the newest of each service stays. */
export async function prunePositions({ db }: { db: Queryable }, service: Service): Promise<void> {
  await db.query(
    `delete from tabib.outbox_progress p
     where p.service = $1
       and (p.epoch, p.n) < (select n.epoch, n.n - 1 from tabib.outbox_progress n
                             where n.service = $1 order by n.epoch desc, n.n desc limit 1)`,
    [service],
  )
}
