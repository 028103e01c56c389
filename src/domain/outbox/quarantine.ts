import { createHash } from 'node:crypto'
import type { Queryable, Transaction } from '../../adapters/postgres/client.ts'
import type { Service } from '../../service.ts'
import { raiseIncident } from '../incident/raise.ts'
import type { PoisonReason } from './envelope.ts'
import { aggregateKey } from './publish.ts'
import type { OutboxRow } from './row.ts'
import type { OutboxSource } from './source.ts'

/** An event to set aside: poison, or `held` behind an earlier poison event of its aggregate. */
export interface SetAside {
  row: Pick<OutboxRow, 'seq' | 'aggregateType' | 'type'>
  reason: PoisonReason | 'held'
  detail: string
  attempts: number
}

/**
 * Copies events from the outbox to the quarantine, inside Postgres: an event may be too large to be read. Events that
 * are there already stay as they are. People are told of poison once for all events that fail alike.
 */
export async function setAside(
  { db }: { db: Transaction },
  source: OutboxSource,
  events: SetAside[],
): Promise<void> {
  if (events.length === 0) return
  const { table, column: c, service } = source
  await db.query(
    `insert into tabib.quarantine (service, origin, event_id, seq, tenant_id, aggregate_type, aggregate_id, type, subject,
       occurred_at, reason, detail, attempts, fingerprint, headers, payload, state)
     select $1, 'outbox', o.${c.id}::text, e.seq, o.${c.tenant_id}::text, o.${c.aggregate_type}::text, o.${c.aggregate_id}::text,
       o.${c.type}::text,
       ${c.subject === 'null' ? 'null' : `o.${c.subject}`}, o.${c.occurred_at}, e.reason, e.detail, e.attempts,
       e.fingerprint, ${c.headers === 'null' ? 'null' : source.dataIsJsonb ? `o.${c.headers}` : `to_jsonb(o.${c.headers}::text)`}, convert_to(coalesce(o.${c.data}::text, 'null'), 'UTF8'),
       case when e.reason = 'held' then 'held' else 'open' end
     from unnest($2::bigint[], $3::text[], $4::text[], $5::int[], $6::text[])
            as e (seq, reason, detail, attempts, fingerprint)
     join ${table} o on o.${c.seq} = e.seq
     order by e.seq
     on conflict do nothing`,
    [
      service,
      events.map(({ row }) => row.seq),
      events.map(({ reason }) => reason),
      events.map(({ detail }) => detail),
      events.map(({ attempts }) => attempts),
      events.map(({ row, reason }) => fingerprint(service, row, reason)),
    ],
  )
  const poison = new Map(
    events.filter(({ reason }) => reason !== 'held').map((e) => [fingerprint(service, e.row, e.reason), e]),
  )
  for (const [key, { row, reason }] of poison) {
    await raiseIncident(db, {
      dedupeKey: `outbox-poison:${key}`,
      severity: 'page',
      mode: MODE_OF[service],
      service,
      title: `A ${row.aggregateType} event of ${service} cannot be published: ${reason}`,
      detail: { reason, aggregateType: row.aggregateType, type: row.type, seq: row.seq },
      runbook: 'runbooks/billing/fm-17-outbox-relay-behind.md',
    })
  }
}

// The mode that names a poison event among its causes.
const MODE_OF: Record<Service, string> = {
  billing: 'billing/FM-17',
  communication: 'communication/C09',
  'virtual-care': 'virtual-care/F12',
}

/** Aggregates whose later events wait: those with an event in quarantine that is neither redriven nor discarded. */
export async function heldAggregates({ db }: { db: Queryable }, service: Service): Promise<Set<string>> {
  const rows = await db.query<{ aggregateType: string; aggregateId: string }>(
    `select distinct aggregate_type as "aggregateType", aggregate_id as "aggregateId" from tabib.quarantine
     where service = $1 and origin = 'outbox' and state in ('open', 'held', 'redriving')`,
    [service],
  )
  return new Set(rows.map(aggregateKey))
}

export interface Released extends OutboxRow {
  quarantineId: string
  attempts: number
}

/**
 * Events that may leave the quarantine, in order: asked for by `dlq redrive`, or held behind events that have left.
 * An event behind one that is still open stays.
 */
export async function releasable(
  { db }: { db: Queryable },
  service: Service,
  { limit, maxDataBytes }: { limit: number; maxDataBytes: number },
): Promise<Released[]> {
  return db.query<Released>(
    `select q.id as "quarantineId", q.attempts, q.seq::text, q.event_id as id, q.tenant_id as "tenantId",
       q.aggregate_type as "aggregateType", q.aggregate_id as "aggregateId", q.type,
       case when octet_length(q.payload) <= $3 then convert_from(q.payload, 'UTF8') end as data, q.headers::text as headers, q.subject,
       (q.occurred_at at time zone 'UTC')::text || '+00' as "occurredAt"
     from tabib.quarantine q
     where q.service = $1 and q.origin = 'outbox' and q.state in ('held', 'redriving')
       and not exists (
         select from tabib.quarantine before
         where before.service = q.service and before.origin = 'outbox' and before.state = 'open'
           and before.aggregate_type = q.aggregate_type and before.aggregate_id = q.aggregate_id
           and before.seq < q.seq)
     order by q.seq
     limit $2`,
    [service, limit, maxDataBytes],
  )
}

/** Closes events that were published from quarantine, and opens again those that are still poison. */
export async function settleReleased(
  { db }: { db: Queryable },
  { published, poison }: { published: string[]; poison: { quarantineId: string; detail: string }[] },
): Promise<void> {
  if (published.length > 0) {
    await db.query(
      `update tabib.quarantine set state = 'redriven', redrives = redrives + 1, resolved_at = now()
       where id = any($1::uuid[]) and state in ('held', 'redriving')`,
      [published],
    )
  }
  for (const { quarantineId, detail } of poison) {
    await db.query(
      `update tabib.quarantine set state = 'open', attempts = attempts + 1, detail = $2
       where id = $1 and state in ('held', 'redriving')`,
      [quarantineId, detail],
    )
  }
}

// Events that fail alike share a fingerprint: people are told once for all of them.
const fingerprint = (service: Service, row: SetAside['row'], reason: string): string =>
  createHash('sha256')
    .update(`outbox\0${service}\0${row.aggregateType}\0${row.type}\0${reason}`)
    .digest('hex')
    .slice(0, 16)
