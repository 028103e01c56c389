import type { Nats } from '../../adapters/nats/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import type { Service } from '../../service.ts'
import { publishedRows } from './backlog.ts'
import { envelope } from './envelope.ts'
import { loadPosition } from './position.ts'
import { OrderedPublisher } from './publish.ts'
import type { OutboxRow } from './row.ts'
import { outboxSource } from './source.ts'

/** Which published events to publish again; every part that is given must hold. */
export interface ReplayFilter {
  service: Service
  since?: Date | undefined
  until?: Date | undefined
  type?: string | undefined
  tenant?: string | undefined
  ids?: string[] | undefined
}

export interface ReplayPlan {
  service: Service
  filter: {
    since: string | null
    until: string | null
    type: string | null
    tenant: string | null
    ids: string[]
  }
  events: number
  firstSeq: string | null
  lastSeq: string | null
  byType: Record<string, number>
}

interface ReplayContext {
  db: Database
  config: Pick<Config, 'outbox'>
}

/** Counts what a replay would publish; reads only. Events not yet published are the relay's and are not counted. */
export async function planReplay(app: ReplayContext, filter: ReplayFilter): Promise<ReplayPlan> {
  const { sql, values } = await matching(app, filter)
  const rows = await app.db.query<{ type: string; events: number; first: string; last: string }>(
    `select type, count(*)::float8 as events, min(seq)::text as first, max(seq)::text as last
     from (${sql}) o group by type order by type`,
    values,
  )
  const seqs = rows.flatMap(({ first, last }) => [BigInt(first), BigInt(last)]).sort((a, b) => Number(a - b))
  return {
    service: filter.service,
    filter: {
      since: filter.since?.toISOString() ?? null,
      until: filter.until?.toISOString() ?? null,
      type: filter.type ?? null,
      tenant: filter.tenant ?? null,
      ids: filter.ids ?? [],
    },
    events: rows.reduce((sum, { events }) => sum + events, 0),
    firstSeq: seqs[0]?.toString() ?? null,
    lastSeq: seqs.at(-1)?.toString() ?? null,
    byType: Object.fromEntries(rows.map(({ type, events }) => [type, events])),
  }
}

const PAGE = 1_000

interface ReplayOptions {
  /** Nothing before or behind it is read: what was published since is not part of it. */
  plan: Pick<ReplayPlan, 'firstSeq' | 'lastSeq'>
  planHash: string
  /** Called after every page. */
  onProgress?: (published: number) => void
}

/**
 * Publishes a plan's events again, each aggregate in order, with the event's own id and a message id that the stream
 * has not seen: JetStream would drop the old one inside its dedupe window. The message id is made of event and plan, so
 * a replay that was interrupted and is typed again repeats nothing within that window; consumers' inboxes absorb the
 * rest.
 *
 * @throws TabibError PARTIAL when NATS went away on the way; typing the same command again goes on.
 */
export async function applyReplay(
  app: ReplayContext & { nats: Nats },
  filter: ReplayFilter,
  { plan, planHash, onProgress }: ReplayOptions,
): Promise<{ published: number; unpublishable: string[] }> {
  const { sql, values } = await matching(app, filter)
  const source = outboxSource(filter.service, app.config.outbox.tables[filter.service])
  const maxPayload = await app.nats.maxPayload()
  await using publisher = await app.nats.openPublisher()
  const token = planHash.slice(0, 12)
  const unpublishable: string[] = []
  let published = 0
  const lane = new OrderedPublisher(publisher, {
    wrap: (row) =>
      envelope(row, {
        service: filter.service,
        maxPayload,
        dataIsJsonb: source.dataIsJsonb,
        messageId: `${row.id}:replay:${token}`,
        extraHeaders: `tabib-replay: ${token}\r\n`,
      }),
    mayStillSend: () => true,
    isHeld: () => false,
    onPoison: (row) => unpublishable.push(row.id),
  })
  if (plan.firstSeq === null) return { published, unpublishable }
  const [from, last] = [values.length + 1, values.length + 2]
  for (let next = BigInt(plan.firstSeq); ; ) {
    const rows = await app.db.query<OutboxRow>(
      `select * from (${sql}) o where o.seq between $${from}::bigint and $${last}::bigint order by o.seq limit ${PAGE}`,
      [...values, next, plan.lastSeq],
    )
    for (const row of rows) {
      await lane.submit({ ...row, seq: row.seq.toString() }, (_row, settled) => {
        if (settled.kind === 'stored') published += 1
      })
    }
    await lane.drained()
    if (lane.stopped !== undefined) {
      throw new TabibError(
        'PARTIAL',
        `${published} events are published again, then NATS went away: ${lane.stopped}`,
        {
          retryable: true,
          context: { published },
        },
      )
    }
    onProgress?.(published)
    if (rows.length < PAGE) return { published, unpublishable }
    next = BigInt(rows.at(-1)!.seq) + 1n
  }
}

/** The published rows a filter names, as SQL with its parameters. */
async function matching(
  app: ReplayContext,
  filter: ReplayFilter,
): Promise<{ sql: string; values: unknown[] }> {
  const source = outboxSource(filter.service, app.config.outbox.tables[filter.service])
  const { table, column: c } = source
  const position = await loadPosition(app, filter.service)
  const published = publishedRows(source, position)
  const values: unknown[] = [...published.values]
  const conditions = [published.sql]
  const where = (condition: (parameter: string) => string, value: unknown) => {
    if (value === undefined) return
    values.push(value)
    conditions.push(condition(`$${values.length}`))
  }
  where((p) => `${c.created_at} >= ${p}::timestamptz`, filter.since)
  where((p) => `${c.created_at} < ${p}::timestamptz`, filter.until)
  where((p) => `${c.type} = ${p}`, filter.type)
  where((p) => `${c.tenant_id}::text = ${p}`, filter.tenant)
  if (filter.ids && filter.ids.length > 0) {
    where((p) => `${c.id}::text = any(${p}::text[])`, filter.ids)
    // Ids of version 7 tell their time, which spares looking through every partition.
    const times = filter.ids.map(uuidTime)
    if (times.every((time) => time !== undefined)) {
      const day = 86_400_000
      where((p) => `${c.created_at} >= ${p}::timestamptz`, new Date(Math.min(...times) - day))
      where((p) => `${c.created_at} < ${p}::timestamptz`, new Date(Math.max(...times) + day))
    }
  }
  const sql = `select ${c.seq} as seq, ${c.id}::text as id, ${c.tenant_id}::text as "tenantId",
      ${c.aggregate_type} as "aggregateType", ${c.aggregate_id} as "aggregateId", ${c.type} as type,
      ${c.data}::text as data, ${c.headers}::text as headers, ${c.subject} as subject,
      (${c.occurred_at}::timestamptz at time zone 'UTC')::text || '+00' as "occurredAt"
    from ${table} where ${conditions.join(' and ')}`
  return { sql, values }
}

/** Milliseconds since 1970 of a version 7 UUID (RFC 9562 section 5.7); undefined for any other text. */
function uuidTime(id: string): number | undefined {
  if (!/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(id)) return undefined
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16)
}
