import type { Nats } from '../../adapters/nats/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { eventStreamOf, type Service, schemaOf } from '../../service.ts'

/**
 * Compares everything committed with everything in the stream, and says what is wrong: events missing (neither
 * published nor in quarantine), published twice, behind a later event of their aggregate, or never committed. Empty
 * when all is well.
 * What a rehearsal ends with: it reads the stream from its start and holds every id, so it is not for a platform at work.
 */
export async function compareWithStream(
  { db, nats }: { db: Queryable; nats: Nats },
  { service }: { service: Service },
): Promise<string[]> {
  const seen = new Set<string>()
  const lastOf = new Map<string, bigint>()
  const doubled: string[] = []
  const outOfOrder: string[] = []
  for await (const { headers } of nats.messages(eventStreamOf(service), 1)) {
    const id = headers.get('Nats-Msg-Id')
    if (id === undefined) continue
    if (seen.has(id)) doubled.push(id)
    seen.add(id)
    const aggregate = `${headers.get('aggregate_type')}\0${headers.get('aggregate_id')}`
    const place = BigInt(headers.get('agg_seq') ?? 0)
    if (place < (lastOf.get(aggregate) ?? 0n)) outOfOrder.push(id)
    lastOf.set(aggregate, place)
  }
  const committed = await db.query<{ id: string }>(
    `select o.id::text as id from ${schemaOf(service)}.outbox o
     where not exists (
       select from tabib.quarantine q
       where q.service = $1 and q.origin = 'outbox' and q.event_id = o.id::text and q.state <> 'redriven')`,
    [service],
  )
  const missing = committed.map(({ id }) => id).filter((id) => !seen.has(id))
  const ghosts = await db.query<{ id: string }>(
    `select s.id from unnest($1::text[]) s (id)
     where not exists (select from ${schemaOf(service)}.outbox o where o.id::text = s.id)`,
    [[...seen]],
  )
  return [
    ...said(missing, `${service} events are committed and not in the stream`),
    ...said(doubled, `${service} events are in the stream twice`),
    ...said(
      ghosts.map(({ id }) => id),
      `${service} events are in the stream and were never committed`,
    ),
    ...said(outOfOrder, `${service} events come after a later event of their aggregate`),
  ]
}

function said(ids: string[], what: string): string[] {
  if (ids.length === 0) return []
  const first = ids.slice(0, 3).join(', ')
  return [`${ids.length} ${what}: ${first}${ids.length > 3 ? ', …' : ''}`]
}
