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
    dataIsJsonb: mapping === undefined,
  }
}

const quoted = (name: string): string =>
  name
    .split('.')
    .map((part) => `"${part}"`)
    .join('.')
