import type { Nats } from '../../adapters/nats/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { eventStreamOf, type Service } from '../../service.ts'
import { type OutboxReader, outboxPending, relayLiveness } from './backlog.ts'
import { outboxSource } from './source.ts'

/** One outbox after its database was led anew. */
export interface OutboxWhole {
  service: Service
  /** Committed and not published, by the position that the new leader has. */
  pending: number
  /** Whether a relay holds the lease, or nothing has waited for long. */
  relayed: boolean
  /** Events at the end of the stream that were held against the rows; null where NATS does not answer. */
  compared: number | null
  /** Ids of those whose row the database lacks: published, and then lost with the former leader. */
  ghosts: string[]
}

const COMPARED_EVENTS = 5_000
// Rows of older events may be gone by rights.
const COMPARED_MS = 3_600_000

/**
 * Whether an outbox is whole: the relay's position belongs to this database, and no event of the last hour (the last
 * 5,000) is in the stream whose row is not there. Reads only.
 *
 * @throws TabibError OUTBOX_RESTORED, POSTGRES_UNREACHABLE
 */
export async function outboxWhole(
  app: OutboxReader & { nats: Nats },
  { service }: { service: Service },
): Promise<OutboxWhole> {
  const pending = await outboxPending(app, { service })
  const { live } = await relayLiveness(app, { service })
  const ids = await lastPublished(app.nats, service).catch((error: unknown) => {
    if (error instanceof TabibError && error.code === 'NATS_UNREACHABLE') return undefined
    throw error
  })
  return {
    service,
    pending,
    relayed: live === 1,
    compared: ids?.length ?? null,
    ghosts: ids ? await withoutRow(app, service, ids) : [],
  }
}

async function lastPublished(nats: Nats, service: Service): Promise<string[]> {
  const stream = eventStreamOf(service)
  const last = (await nats.stream(stream))?.state.last_seq ?? 0
  const oldest = Date.now() - COMPARED_MS
  const ids: string[] = []
  for await (const { headers, time } of nats.messages(stream, Math.max(1, last - COMPARED_EVENTS))) {
    const again = headers.has('tabib-replay') || headers.has('tabib-redrive')
    const id = headers.get('Nats-Msg-Id')
    if (id !== undefined && !again && time.getTime() > oldest) ids.push(id)
  }
  return ids
}

async function withoutRow(
  { db, config }: OutboxReader & { db: Queryable },
  service: Service,
  ids: string[],
): Promise<string[]> {
  const { table, column: c } = outboxSource(service, config.outbox.tables[service])
  const rows = await db.query<{ id: string }>(
    `select s.id from unnest($1::text[]) s (id) where not exists (select from ${table} where ${c.id}::text = s.id)`,
    [ids],
  )
  return rows.map(({ id }) => id)
}
