import type { OutboxMapping } from '../../config.ts'
import { type Service, schemaOf } from '../../service.ts'

/** The columns the relay reads, by the names of the public contract (docs/outbox.md). */
const COLUMNS = [
  'seq',
  'id',
  'xid',
  'tenant_id',
  'aggregate_type',
  'aggregate_id',
  'type',
  'data',
  'headers',
  'subject',
  'occurred_at',
  'created_at',
] as const
type Column = (typeof COLUMNS)[number]

/** Where a service's outbox lies: quoted SQL for its table and for each column of the contract. */
export interface OutboxSource {
  service: Service
  table: string
  column: Record<Column, string>
  /** False for a mapped table without transaction ids: it is read by its numbers (`gap-window.ts`). */
  hasXid: boolean
  /**
   * The sequence of our numbers, which a row draws after its transaction has its id, so that it can be sought by number.
   * Undefined for a mapped table, which is sought by its own index of transaction ids.
   */
  numbers: string | undefined
  /** Ours is `jsonb`, hence known to be JSON; a mapped column may be text. */
  dataIsJsonb: boolean
}

/**
 * Our own outbox, or an existing table mapped in `tabib.yaml` (`outbox.tables.<service>`). A mapped table keeps its
 * names; `headers`, `subject` and `xid` may be absent (null in the mapping).
 */
export function outboxSource(service: Service, mapping?: OutboxMapping): OutboxSource {
  const column = {} as Record<Column, string>
  for (const name of COLUMNS) {
    const mapped = mapping?.columns[name]
    column[name] = mapped === null ? 'null' : quoted(mapped ?? name)
  }
  return {
    service,
    table: quoted(mapping?.table ?? `${schemaOf(service)}.outbox`),
    column,
    hasXid: mapping?.columns.xid !== null,
    numbers: mapping === undefined ? quoted(`${schemaOf(service)}.outbox_number`) : undefined,
    dataIsJsonb: mapping === undefined,
  }
}

/**
 * Rows of the transactions from `xmax` on, as a condition. Ours lie above `floor` (see `Position`) and are found by number:
 * an index on both has little to pass by. All are SQL.
 */
export const youngRows = ({ column: c, numbers }: OutboxSource, xmax: string, floor: string): string =>
  `${numbers ? `${c.seq} > ${floor}::bigint` : `${floor}::bigint is not null`} and ${c.xid} >= ${xmax}::xid8`

/** In which order those are read: that of the index they are found by. SQL. */
export const youngOrder = ({ column: c, numbers }: OutboxSource): string =>
  numbers ? c.seq : `${c.xid}, ${c.seq}`

/**
 * Rows of those transactions of `xip` that have ended, as a query. Of ours the index is walked above their `lows`: once for
 * those that were open for long and once for the others, who would make the range of ids wide. All are SQL.
 */
export const lateRows = (
  { table, column: c, numbers }: OutboxSource,
  columns: string,
  { xip, lows, floor }: Record<'xip' | 'lows' | 'floor', string>,
): string =>
  `select ${columns} from (
     select min(coalesce(late_low, 0)) as late_above, array_agg(late_xid order by late_xid) as late_xids
     from unnest(${xip}::xid8[], ${lows}::bigint[]) late (late_xid, late_low)
     where pg_visible_in_snapshot(late_xid, pg_current_snapshot())
     group by coalesce(late_low, 0) > ${floor}::bigint - ${RECENT}
   ) ended, ${table} where ${
     numbers
       ? `${c.seq} > late_above and ${c.xid} >= late_xids[1] and ${c.xid} <= late_xids[cardinality(late_xids)]
          and array_position(late_xids, ${c.xid}) is not null`
       : `${c.xid} = any(late_xids)`
   }`
const RECENT = 50_000

const quoted = (name: string): string =>
  name
    .split('.')
    .map((part) => `"${part}"`)
    .join('.')
