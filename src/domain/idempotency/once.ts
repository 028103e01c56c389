import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { schemaOf } from '../../service.ts'
import { asTenant } from '../sessions/tenant.ts'
import type { AnswerCache, Kept } from './cache.ts'
import { type Answer, assertSameRequest, type Call } from './key.ts'
import { type Shelf, shelfOf } from './shelf.ts'

/** What a write answers; `again` when it found its effect there already, beyond the life of the key. */
export type Effect = Answer & { again?: boolean }

export interface Answered extends Answer {
  /** The effect is that of an earlier request. */
  replayed: boolean
}

/** A write's work, in its tenant's transaction. */
export type Work = (tx: Transaction) => Promise<Effect>

const TTL_MS = 24 * 3_600_000

/**
 * Does a write once for its tenant, route and key, and gives every request with them within 24 hours the first one's
 * answer. Claim, effect and answer are one transaction (`work`'s, as tabib_app for the tenant): a process or a server
 * that dies leaves all of it or nothing. The claim is a lock of that transaction, so nothing is left to time out. What
 * `work` throws undoes everything, and the key is as good as new: only successes are kept.
 *
 * Redis answers when it can. What it lacks the database has, and puts back.
 *
 * @throws TabibError IDEMPOTENCY_KEY_REUSED, REQUEST_IN_PROGRESS while another request holds the key; whatever `work`
 * throws. POSTGRES_UNREACHABLE and NOT_REPLICATED do not say whether it was done, or lasts: ask again with the same key.
 */
export async function answerOnce(
  { db, cache }: { db: Database; cache?: AnswerCache | undefined },
  call: Call,
  work: Work,
): Promise<Answered> {
  const cached = await cache?.find(call)
  if (cached) return replay(call, cached)
  const shelf = shelfOf(call)
  const { kept, replayed } = await asTenant(db, call.tenantId, async (tx) => {
    await claim(tx, call, shelf)
    // A statement of its own: its snapshot is taken after the lock, and sees what the last holder committed.
    const first = await keptAnswer(tx, call, shelf)
    if (first && first.leftMs > 0) return { kept: first, replayed: true }
    if (first) await forgetKey(tx, call, shelf)
    const { again = false, ...answer } = await work(tx)
    await keepAnswer(tx, call, shelf, answer)
    return { kept: { ...answer, fingerprint: call.fingerprint, leftMs: TTL_MS }, replayed: again }
  })
  await cache?.keep(call, kept)
  return replayed ? replay(call, kept) : { status: kept.status, body: kept.body, replayed }
}

/** The answer that a call got before, if it did: for a write that prepares outside its transaction, before it does. */
export async function answeredBefore({ db }: { db: Database }, call: Call): Promise<Answered | undefined> {
  const first = await asTenant(db, call.tenantId, (tx) => keptAnswer(tx, call, shelfOf(call)))
  return first && first.leftMs > 0 ? replay(call, first) : undefined
}

function replay(call: Call, first: Omit<Kept, 'leftMs'>): Answered {
  assertSameRequest(call, first)
  return { status: first.status, body: first.body, replayed: true }
}

async function claim(tx: Transaction, { service, tenantId, route, key }: Call, shelf: Shelf): Promise<void> {
  // Two keys with one hash would at worst refuse each other for a moment.
  const [row] = await tx.query<{ claimed: boolean }>(
    'select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as claimed',
    [[service, tenantId, route, shelf.key].join(' ')],
    'idempotency_claim',
  )
  if (row?.claimed) return
  throw new TabibError(
    'REQUEST_IN_PROGRESS',
    `a request with Idempotency-Key "${key}" is under way; ask again for its answer`,
    { retryable: true },
  )
}

async function keptAnswer(
  tx: Transaction,
  { service, tenantId, route }: Call,
  { key, read }: Shelf,
): Promise<Kept | undefined> {
  const [row] = await tx.query<Kept>(
    `select fingerprint, status, body,
       extract(epoch from created_at + interval '24 hours' - now())::float8 * 1000 as "leftMs"
     from ${schemaOf(service)}.idempotency_key
     where tenant_id = $1 and route = $2 and key = $3`,
    [tenantId, route, key],
    `idempotency_kept_${service}`,
  )
  if (!row) return undefined
  // It may be on no standby yet, after a wait that was cancelled: a commit that writes WAL waits for all before it.
  await tx.query(
    `select pg_logical_emit_message(true, 'tabib', '') where current_setting('synchronous_standby_names') <> ''`,
    [],
    'idempotency_await_standby',
  )
  return { ...row, body: read(row.body) }
}

/** Deletes a key that has expired; what is younger, the table's policy keeps. */
async function forgetKey(tx: Transaction, { service, tenantId, route }: Call, { key }: Shelf): Promise<void> {
  await tx.query(
    `delete from ${schemaOf(service)}.idempotency_key where tenant_id = $1 and route = $2 and key = $3`,
    [tenantId, route, key],
  )
}

async function keepAnswer(
  tx: Transaction,
  { service, tenantId, route, fingerprint }: Call,
  { key, write }: Shelf,
  { status, body }: Answer,
): Promise<void> {
  await tx.query(
    `insert into ${schemaOf(service)}.idempotency_key (tenant_id, route, key, fingerprint, status, body)
     values ($1, $2, $3, $4, $5, $6)`,
    [tenantId, route, key, fingerprint, status, write(body)],
    `idempotency_keep_${service}`,
  )
}
