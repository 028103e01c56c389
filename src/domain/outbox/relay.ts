import type { Nats, Publisher } from '../../adapters/nats/client.ts'
import type { Connection, Database } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { eventStreamOf } from '../../service.ts'
import { clearAttempts, recordBatch, recordSingle, recordSurvival, suspectsLeft } from './attempts.ts'
import { copiedMessage } from './copied-message.ts'
import { type Enveloped, envelope } from './envelope.ts'
import { openGapReader } from './gap-window.ts'
import { acquireLease, awaitStandby, type Lease, releaseLease, renewLease } from './lease.ts'
import { loadPosition, type Position, prunePositions, savePosition } from './position.ts'
import { aggregateKey, OrderedPublisher, type Settled } from './publish.ts'
import { heldAggregates, releasable, type SetAside, setAside, settleReleased } from './quarantine.ts'
import { CopiedRow, type OutboxRow } from './row.ts'
import type { OutboxSource } from './source.ts'
import { openWindowReader, type Page, type WindowReader } from './window.ts'

export interface RelayOptions {
  source: OutboxSource
  /** Names this process in the lease: host, pid and start, so that two never share it. */
  holder: string
  /** Later events of an aggregate with a poison event: held in order, or relayed past it. */
  poison: 'hold' | 'skip'
  /** How long the lease lasts without renewal, hence how long a standby waits after a crash. */
  leaseTtlMs?: number
  pageSize?: number
}

/** What one pass did. */
export type RelayPass =
  | { kind: 'standby'; holder: string | null; expiresInMs: number }
  /** `more`: rows were waiting when the pass ended. */
  | { kind: 'relayed'; published: number; quarantined: number; held: number; more: boolean }
  /** NATS is away, or refuses for now: nothing is lost, try again with back-off. */
  | { kind: 'blocked'; published: number; reason: string }

/**
 * Relays one service's outbox. `pass` publishes what is committed and returns; it never sleeps, and whoever calls it
 * owns the cadence. Dispose to give the lease back.
 */
export interface Relay extends AsyncDisposable {
  /**
   * @throws TabibError OUTBOX_RESTORED (see `loadPosition`), POSTGRES_UNREACHABLE; the relay can be passed again after
   * either, and starts from the saved position.
   */
  pass(): Promise<RelayPass>
}

const ROWS_PER_PASS = 65_536
// Enough that neither Postgres nor NATS waits for the other.
const OPEN_PAGES = 16
const SAVE_EVERY_MS = 50
const SAVE_EVERY_EVENTS = 4_096
const RELEASE_EVERY_MS = 1_000
const PRUNE_EVERY_SAVES = 500
// No more than this can be published and not yet saved (SAVE_EVERY_EVENTS, the open pages and one that is large), so a
// successor of a crashed relay is careful for as many.
const CAREFUL_EVENTS = 12_288
const CAREFUL_BATCH = 512
const CAREFUL_ATTEMPTS = 3
const DIED_ON_IT = `the relay died ${CAREFUL_ATTEMPTS} times while it published this event alone`

/** What a leader knows, from taking the lease to losing it. */
interface Session {
  connection: Connection
  reader: WindowReader
  publisher: Publisher
  lane: OrderedPublisher
  /** Read and published up to here; `saved` is what the database knows. */
  position: Position
  saved: Position
  savedAtMs: number
  /** Events settled since. */
  unsaved: number
  saves: number
  held: Set<string>
  /** Ids that the stream has although no saved position says so. */
  stored: Set<string>
  careful: number
  releasedAtMs: number
}

/** `nats` must be opened with `onDisconnect: 'fail'`: what is buffered while away would be sent by a relay long replaced. */
export function openRelay({ db, nats }: { db: Database; nats: Nats }, options: RelayOptions): Relay {
  const { source, holder, poison, leaseTtlMs = 5_000, pageSize = 256 } = options
  const { service } = source
  let lease: Lease | undefined
  let session: Session | undefined
  let maxPayload = 1_048_576

  const wrap = (row: OutboxRow): Enveloped => {
    const copied = row instanceof CopiedRow ? copiedMessage(row, source, maxPayload) : undefined
    if (copied) return { kind: 'message', message: copied }
    return envelope(row, { service, maxPayload, dataIsJsonb: source.dataIsJsonb })
  }

  const openReader = source.hasXid ? openWindowReader : openGapReader

  const begin = async (afterCrash: boolean): Promise<Session> => {
    const position = await loadPosition({ db }, service)
    const publisher = await nats.openPublisher({ ackTimeoutMs: leaseTtlMs })
    let connection: Connection | undefined
    try {
      connection = await db.connection()
      const leader: Session = {
        connection,
        reader: await openReader(connection, source, { maxDataBytes: 2 * maxPayload }),
        publisher,
        lane: new OrderedPublisher(publisher, {
          wrap,
          mayStillSend,
          isHeld: (row) => leader.held.size > 0 && leader.held.has(aggregateKey(row)),
          isStored: (row) => leader.stored.size > 0 && leader.stored.delete(row.id),
          onPoison: (row) => {
            if (poison === 'hold') leader.held.add(aggregateKey(row))
          },
        }),
        position,
        saved: position,
        savedAtMs: performance.now(),
        unsaved: 0,
        saves: 0,
        held: poison === 'hold' ? await heldAggregates({ db }, service) : new Set(),
        stored: await storedSince(position.streamSeq),
        careful: afterCrash || (await suspectsLeft({ db }, service)) > 0 ? CAREFUL_EVENTS : 0,
        releasedAtMs: Number.NEGATIVE_INFINITY,
      }
      return leader
    } catch (error) {
      await publisher[Symbol.asyncDispose]()
      await connection?.[Symbol.asyncDispose]()
      throw error
    }
  }

  const end = async (): Promise<void> => {
    const ending = session
    session = undefined
    await ending?.publisher[Symbol.asyncDispose]()
    await ending?.connection[Symbol.asyncDispose]()
  }

  /** Reads the stream behind the last recorded sequence: whatever a predecessor published and could not record. */
  const storedSince = async (streamSeq: number): Promise<Set<string>> => {
    const ids = new Set<string>()
    const stream = await nats.stream(eventStreamOf(service))
    // A stream that ends before our record was made anew; its first message is then as good as any.
    const from = stream && stream.state.last_seq >= streamSeq ? streamSeq + 1 : 1
    for await (const { headers } of nats.messages(eventStreamOf(service), from)) {
      const id = headers.get('Nats-Msg-Id')
      if (id !== undefined) ids.add(id)
    }
    return ids
  }

  /** Takes or prolongs the lease; what a standby knows when somebody else holds it. */
  const lead = async (): Promise<{ lease: Lease } | { holder: string | null; expiresInMs: number }> => {
    if (lease) {
      const left = lease.validUntilMs - performance.now()
      if (left > (leaseTtlMs * 2) / 3) return { lease }
      if (left > 0 && (await renewLease({ db }, lease, leaseTtlMs))) return { lease }
      lease = undefined
      await end()
    }
    const attempt = await acquireLease({ db }, { service, holder, ttlMs: leaseTtlMs })
    if (attempt.kind === 'standby') return attempt
    lease = attempt.lease
    return attempt
  }

  const onStandby = async () => {
    if (lease) await awaitStandby({ db }, lease)
  }

  const mayStillSend = () => lease !== undefined && performance.now() < lease.validUntilMs

  /** Moves the position past a page all of whose events are settled; false when the lease was lost. */
  const record = async (
    leader: Session,
    after: Position,
    events: number,
    aside: SetAside[],
  ): Promise<boolean> => {
    leader.position = after
    leader.unsaved += events
    const soon = leader.unsaved < SAVE_EVERY_EVENTS && performance.now() - leader.savedAtMs < SAVE_EVERY_MS
    return aside.length === 0 && soon ? true : save(leader, aside)
  }

  const save = async (leader: Session, aside: SetAside[] = []): Promise<boolean> => {
    const { position } = leader
    const held = lease
    if (!held) return false
    const saved =
      aside.length === 0
        ? await savePosition({ db }, held, position)
        : await db.transaction(async (tx) => {
            if (!(await savePosition({ db: tx }, held, position))) return false
            await setAside({ db: tx }, source, aside)
            return true
          })
    if (!saved) return false
    leader.saved = position
    leader.savedAtMs = performance.now()
    leader.unsaved = 0
    leader.saves += 1
    if (leader.saves % PRUNE_EVERY_SAVES === 0) await prunePositions({ db }, service)
    return true
  }

  /** Publishes a page; `settled` resolves with what became of it. Returns once all of it is on its way. */
  const publishPage = async (
    lane: OrderedPublisher,
    page: Page,
  ): Promise<{ settled: Promise<PageResult> }> => {
    const result: PageResult = { published: 0, aside: [], incomplete: false, streamSeq: 0 }
    let left = page.rows.length
    let resolve: (result: PageResult) => void
    const settled = new Promise<PageResult>((fulfil) => {
      resolve = fulfil
    })
    const done = (row: OutboxRow, outcome: Settled) => {
      account(result, row, outcome)
      left -= 1
      if (left === 0) resolve(result)
    }
    if (left === 0) resolve!(result)
    for (const row of page.rows) {
      const room = lane.submit(row, done)
      if (room) await room
    }
    return { settled }
  }

  const relayPages = async (leader: Session, counts: Counts): Promise<RelayPass> => {
    const { lane, reader } = leader
    const open: { page: Page; settled: Promise<PageResult>; floor: number }[] = []
    let acked = leader.position.streamSeq
    /** Records the oldest open page; what ends the pass when it could not be. */
    const finishOldest = async (): Promise<RelayPass | undefined> => {
      const { page, settled, floor } = open.shift()!
      const result = await settled
      counts.published += result.published
      if (result.incomplete)
        return { kind: 'blocked', published: counts.published, reason: lane.stopped ?? 'NATS is away' }
      counts.quarantined += result.aside.filter(({ reason }) => reason !== 'held').length
      counts.held += result.aside.filter(({ reason }) => reason === 'held').length
      acked = Math.max(acked, result.streamSeq)
      const after = { ...page.after, streamSeq: Math.min(acked, floor) }
      if (await record(leader, after, page.rows.length, result.aside)) return undefined
      return { kind: 'standby', holder: null, expiresInMs: leaseTtlMs }
    }

    let more = false
    let replicated = false
    for await (const page of reader.pages(leader.position, { pageRows: pageSize, rows: ROWS_PER_PASS })) {
      // What the stream was known to hold when this page began: whatever it stores lies behind that, and a successor
      // that finds the page before it recorded must look there.
      const previous = open.at(-1)
      if (previous) previous.floor = acked
      // All pages of a pass are of one snapshot, which the first was read in.
      if (!replicated && page.rows.length > 0) await onStandby()
      replicated = true
      const { settled } = await publishPage(lane, page)
      open.push({ page, settled, floor: Number.POSITIVE_INFINITY })
      more = page.more
      if (open.length < OPEN_PAGES) continue
      const stop = await finishOldest()
      if (stop) return stop
    }
    while (open.length > 0) {
      const stop = await finishOldest()
      if (stop) return stop
    }
    return { kind: 'relayed', ...counts, more }
  }

  /**
   * Relays as a successor of a process that died: in small batches recorded before they are touched, and one by one
   * where a batch has killed before. An event that was tried alone too often goes to quarantine unread.
   */
  const relayCarefully = async (leader: Session, counts: Counts): Promise<RelayPass> => {
    const suspects = await suspectsLeft({ db }, service)
    const single = suspects > 0
    const head = await leader.reader.read(leader.position, single ? 1 : CAREFUL_BATCH, { headOnly: true })
    if (!head) {
      leader.careful = 0
      await clearAttempts({ db }, service)
      return { kind: 'relayed', ...counts, more: false }
    }
    const first = head.rows[0]!
    const attempts = single ? await recordSingle({ db }, service, first.id) : 0
    if (!single) await recordBatch({ db }, service, head.rows.length)
    const after = (streamSeq: number) => ({
      ...head.after,
      streamSeq: Math.max(streamSeq, leader.position.streamSeq),
    })
    if (attempts > CAREFUL_ATTEMPTS) {
      if (poison === 'hold') leader.held.add(aggregateKey(first))
      const aside = [
        { row: first, reason: 'crashes-relay' as const, detail: DIED_ON_IT, attempts: CAREFUL_ATTEMPTS },
      ]
      leader.position = after(0)
      if (!(await save(leader, aside))) return { kind: 'standby', holder: null, expiresInMs: leaseTtlMs }
      counts.quarantined += 1
    } else {
      const { lane } = leader
      const filled = await leader.reader.fill(head)
      await onStandby()
      const { settled } = await publishPage(lane, filled)
      if (single) await recordSurvival({ db }, service, settled)
      const result = await settled
      counts.published += result.published
      if (result.incomplete) {
        // It survived: whatever went wrong, these events did not kill the process.
        await clearAttempts({ db }, service)
        return { kind: 'blocked', published: counts.published, reason: lane.stopped ?? 'NATS is away' }
      }
      counts.quarantined += result.aside.length
      leader.position = after(result.streamSeq)
      if (!(await save(leader, result.aside)))
        return { kind: 'standby', holder: null, expiresInMs: leaseTtlMs }
    }
    leader.careful -= head.rows.length
    if (single) await recordBatch({ db }, service, suspects - 1)
    if (leader.careful <= 0 || !single) await clearAttempts({ db }, service)
    return { kind: 'relayed', ...counts, more: true }
  }

  /** Whoever cannot relay must not keep others from it, nor look alive. */
  const giveWay = async (): Promise<void> => {
    await end()
    if (lease) await releaseLease({ db }, lease).catch(() => {})
    lease = undefined
  }

  /** Publishes what has left the quarantine, before anything newer of its aggregates. */
  const release = async (leader: Session): Promise<{ published: number; stopped?: string | undefined }> => {
    if (performance.now() - leader.releasedAtMs < RELEASE_EVERY_MS) return { published: 0 }
    leader.releasedAtMs = performance.now()
    const rows = await releasable({ db }, service, { limit: 100, maxDataBytes: 2 * maxPayload })
    if (rows.length === 0) return { published: 0 }
    await onStandby()
    const barred = new Set<string>()
    const published: string[] = []
    const again: { quarantineId: string; detail: string }[] = []
    const lane = new OrderedPublisher(leader.publisher, {
      wrap: (row) => envelope(row, { service, maxPayload, dataIsJsonb: false }),
      mayStillSend,
      isHeld: (row) => barred.has(aggregateKey(row)),
      isStored: (row) => leader.stored.delete(row.id),
      onPoison: (row) => barred.add(aggregateKey(row)),
    })
    for (const row of rows) {
      // What left the quarantine may be what killed the predecessor.
      const careful = leader.careful > 0 && !barred.has(aggregateKey(row))
      if (careful && (await recordSingle({ db }, service, row.id)) > CAREFUL_ATTEMPTS) {
        again.push({ quarantineId: row.quarantineId, detail: DIED_ON_IT })
        barred.add(aggregateKey(row))
        continue
      }
      await lane.submit(row, (_row, outcome) => {
        if (outcome.kind === 'stored') published.push(row.quarantineId)
        if (outcome.kind === 'poison') again.push({ quarantineId: row.quarantineId, detail: outcome.detail })
      })
      if (careful) await recordSurvival({ db }, service, lane.drained())
    }
    await lane.drained()
    await settleReleased({ db }, { published, poison: again })
    if (poison === 'hold') leader.held = await heldAggregates({ db }, service)
    // More may wait behind what has just left.
    if (published.length > 0) leader.releasedAtMs = Number.NEGATIVE_INFINITY
    return { published: published.length, stopped: lane.stopped }
  }

  return {
    async pass() {
      const leading = await lead()
      if (!('lease' in leading)) return { kind: 'standby', ...leading }
      // A page over a slow link can take longer than the lease lasts.
      const renewal = setInterval(() => {
        if (lease) renewLease({ db }, lease, leaseTtlMs).catch(() => {})
      }, leaseTtlMs / 3)
      try {
        maxPayload = await nats.maxPayload()
        session ??= await begin(leading.lease.afterCrash)
        leading.lease.afterCrash = false
        const counts: Counts = { published: 0, quarantined: 0, held: 0 }
        const released = await release(session)
        counts.published += released.published
        const result: RelayPass =
          released.stopped !== undefined
            ? { kind: 'blocked', published: counts.published, reason: released.stopped }
            : session.careful > 0
              ? await relayCarefully(session, counts)
              : await relayPages(session, counts)
        const idle = result.kind === 'relayed' && !result.more
        if (
          idle &&
          session.saved !== session.position &&
          performance.now() - session.savedAtMs >= SAVE_EVERY_MS
        ) {
          await save(session)
        }
        // What is unknown is looked up in the stream when the session begins anew.
        if (result.kind !== 'relayed') await giveWay()
        return result
      } catch (error) {
        await giveWay()
        if (error instanceof TabibError && error.code === 'NATS_UNREACHABLE') {
          return { kind: 'blocked', published: 0, reason: error.message }
        }
        throw error
      } finally {
        clearInterval(renewal)
      }
    },
    async [Symbol.asyncDispose]() {
      try {
        if (session && session.saved !== session.position) await save(session)
        if (lease) await releaseLease({ db }, lease)
      } finally {
        lease = undefined
        await end()
      }
    },
  }
}

type Counts = Pick<Extract<RelayPass, { kind: 'relayed' }>, 'published' | 'quarantined' | 'held'>

interface PageResult {
  published: number
  aside: SetAside[]
  /** Some event's fate is not known: the page must not be recorded. */
  incomplete: boolean
  streamSeq: number
}

function account(result: PageResult, row: OutboxRow, outcome: Settled): void {
  switch (outcome.kind) {
    case 'stored':
      // Without a sequence it was in the stream before: a predecessor published it.
      if (outcome.streamSeq > 0) result.published += 1
      if (outcome.streamSeq > result.streamSeq) result.streamSeq = outcome.streamSeq
      break
    case 'poison':
      result.aside.push({ row, reason: outcome.reason, detail: outcome.detail, attempts: outcome.attempts })
      break
    case 'held':
      result.aside.push({
        row,
        reason: 'held',
        detail: 'an earlier event of its aggregate is in quarantine',
        attempts: 0,
      })
      break
    case 'unknown':
    case 'unsent':
      result.incomplete = true
      break
  }
}
