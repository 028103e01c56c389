import { setTimeout as delay } from 'node:timers/promises'
import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Service } from '../../service.ts'

/** How many of the next events are suspected of killing the relay: left behind by a process that died among them. */
export async function suspectsLeft({ db }: { db: Queryable }, service: Service): Promise<number> {
  const [row] = await db.query<{ suspects: number }>(
    'select suspects from tabib.outbox_attempt where service = $1',
    [service],
  )
  return row?.suspects ?? 0
}

/** Says, before they are touched, that the next `suspects` events are being relayed together. */
export async function recordBatch(
  { db }: { db: Queryable },
  service: Service,
  suspects: number,
): Promise<void> {
  await db.query(
    `insert into tabib.outbox_attempt (service, suspects) values ($1, $2)
     on conflict (service) do update set suspects = $2, event_id = null, attempts = 0, last_at = now()`,
    [service, suspects],
  )
}

/** Says, before it is touched, that one event is being relayed alone; returns how often that has been said of it. */
export async function recordSingle(
  { db }: { db: Queryable },
  service: Service,
  eventId: string,
): Promise<number> {
  const [row] = await db.query<{ attempts: number }>(
    `insert into tabib.outbox_attempt as a (service, suspects, event_id, attempts) values ($1, 0, $2, 1)
     on conflict (service) do update
       set attempts = case when a.event_id = $2 then a.attempts + 1 else 1 end, event_id = $2, last_at = now()
     returning attempts`,
    [service, eventId],
  )
  return row!.attempts
}

// What an event does to the process, it may do when its memory is collected, not when it is written.
const SURVIVED_AFTER_MS = 100

/**
 * Takes the last attempt back once the process has lived on for a while and the event is still not settled: a relay that
 * is killed while a hung NATS owes it the acknowledgement was not killed by the event.
 */
export async function recordSurvival(
  { db }: { db: Queryable },
  service: Service,
  settled: Promise<unknown>,
): Promise<void> {
  const waited = await Promise.race([settled, delay(SURVIVED_AFTER_MS, 'waited', { ref: false })])
  if (waited !== 'waited') return
  await db.query('update tabib.outbox_attempt set attempts = greatest(0, attempts - 1) where service = $1', [
    service,
  ])
}

/** The events did not kill the process: nobody is suspected any more. */
export async function clearAttempts({ db }: { db: Queryable }, service: Service): Promise<void> {
  await db.query('delete from tabib.outbox_attempt where service = $1', [service])
}
