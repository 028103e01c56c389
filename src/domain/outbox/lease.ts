import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Service } from '../../service.ts'

/** The right to relay one service's outbox, for a limited time. */
export interface Lease {
  service: Service
  holder: string
  /** Rises at every change of hands; whatever an older epoch still writes is refused. */
  epoch: bigint
  /** Monotonic clock (`performance.now()`) after which nothing may be sent. Earlier than the database's own expiry. */
  validUntilMs: number
  /** The holder before this one ended without giving the lease back: it may have died on an event. */
  afterCrash: boolean
}

export type LeaseAttempt =
  | { kind: 'held'; lease: Lease }
  | { kind: 'standby'; holder: string | null; expiresInMs: number }

/**
 * Takes the lease when it is free, expired, or already ours. The database's clock decides; one statement, so two
 * relays that try at once cannot both win.
 */
export async function acquireLease(
  { db }: { db: Queryable },
  { service, holder, ttlMs }: { service: Service; holder: string; ttlMs: number },
): Promise<LeaseAttempt> {
  const askedAt = performance.now()
  const [taken] = await db.query<{ epoch: bigint; after_crash: boolean }>(
    `with before as (
       select service, holder, released from tabib.outbox_lease
       where service = $1 and (released or expires_at < clock_timestamp() or holder = $2)
       for update
     )
     update tabib.outbox_lease l
     set holder = $2, epoch = l.epoch + 1, released = false, taken_at = clock_timestamp(),
         expires_at = clock_timestamp() + $3 * interval '1 ms'
     from before
     where l.service = before.service
     returning l.epoch, (not before.released and before.holder is distinct from $2) as after_crash`,
    [service, holder, ttlMs],
  )
  if (taken) {
    // Counted from before the question was asked, hence never later than what the database believes.
    const validUntilMs = askedAt + ttlMs
    return {
      kind: 'held',
      lease: { service, holder, epoch: taken.epoch, validUntilMs, afterCrash: taken.after_crash },
    }
  }
  const [present] = await db.query<{ holder: string | null; expires_in_ms: number }>(
    `select holder, extract(epoch from expires_at - clock_timestamp())::float8 * 1000 as expires_in_ms
     from tabib.outbox_lease where service = $1`,
    [service],
  )
  return {
    kind: 'standby',
    holder: present?.holder ?? null,
    expiresInMs: Math.max(0, present?.expires_in_ms ?? 0),
  }
}

/** Prolongs the lease; false when another holder has taken it meanwhile. */
export async function renewLease({ db }: { db: Queryable }, lease: Lease, ttlMs: number): Promise<boolean> {
  const askedAt = performance.now()
  const renewed = await db.query(
    `update tabib.outbox_lease set expires_at = clock_timestamp() + $4 * interval '1 ms'
     where service = $1 and holder = $2 and epoch = $3 and not released
     returning epoch`,
    [lease.service, lease.holder, lease.epoch, ttlMs],
    'outbox_lease_renew',
  )
  if (renewed.length === 0) return false
  lease.validUntilMs = askedAt + ttlMs
  return true
}

/**
 * Resolves once everything that was visible before is on a synchronous standby too, where the server has any: by a
 * commit of our own, which waits for all WAL before it. Visible is also what no standby has: after a crash of the server,
 * after a cancelled wait, of a producer with `synchronous_commit = local`. An event of such a row would outlive it.
 */
export async function awaitStandby({ db }: { db: Queryable }, { service, epoch }: Lease): Promise<void> {
  await db.query(
    `update tabib.outbox_lease set expires_at = expires_at
     where service = $1 and epoch = $2 and current_setting('synchronous_standby_names') <> ''`,
    [service, epoch],
    'outbox_await_standby',
  )
}

/** Gives the lease back, so that a standby takes over at once. Does nothing when it is no longer ours. */
export async function releaseLease({ db }: { db: Queryable }, lease: Lease): Promise<void> {
  await db.query(
    `update tabib.outbox_lease set released = true, expires_at = clock_timestamp()
     where service = $1 and holder = $2 and epoch = $3`,
    [lease.service, lease.holder, lease.epoch],
  )
}
