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
 * an index on both has little to pass by. Both are SQL.
 */
export const youngRows = ({ column: c, numbers }: OutboxSource, xmax: string, floor: string): string =>
  `${numbers ? `${c.seq} > ${floor}::bigint` : `${floor}::bigint is not null`} and ${c.xid} >= ${xmax}::xid8`

/**
 * Rows of those transactions of `xip` that have ended, as what stands behind `from`; of ours only what lies above its
 * `lows` is passed through, and nothing at all while a transaction is open. Both are SQL. `offset 0` keeps the planner
 * from joining the whole table with a handful of transactions.
 */
export const lateRows = ({ table, column: c, numbers }: OutboxSource, xip: string, lows: string): string =>
  `unnest(${xip}::xid8[], ${lows}::bigint[]) late (late_xid, late_low) cross join lateral (
     select * from ${table} where ${numbers ? `${c.seq} > coalesce(late_low, 0) and ` : ''}${c.xid} = late_xid offset 0
   ) row_of where pg_visible_in_snapshot(late_xid, pg_current_snapshot())`

const quoted = (name: string): string =>
  name
    .split('.')
    .map((part) => `"${part}"`)
    .join('.')
