import type { Publisher, PublishOutcome, Sender } from '../../adapters/nats/client.ts'
import type { Enveloped, PoisonReason } from './envelope.ts'
import { aggregateHash, type OutboxRow } from './row.ts'

/** What became of one event. `unknown` means NATS is away: it may or may not be in the stream. */
export type Settled =
  | { kind: 'stored'; streamSeq: number }
  | { kind: 'poison'; reason: PoisonReason; detail: string; attempts: number }
  | { kind: 'held' }
  | { kind: 'unknown'; description: string }
  /** Never sent: the publisher had stopped, or the lease had run out. */
  | { kind: 'unsent' }

export interface PublishOptions {
  wrap: (row: OutboxRow) => Enveloped
  /** Asked before every send; false stops for good. */
  mayStillSend: () => boolean
  /** Whether the aggregate waits behind a quarantined event. */
  isHeld: (row: OutboxRow) => boolean
  /** Called when an event turns out to be poison, before the next of its aggregate is looked at. */
  onPoison: (row: OutboxRow) => void
  /** Whether the stream is known to have the event already. */
  isStored?: (row: OutboxRow) => boolean
  maxInFlight?: number
  /** How often a message that the stream refuses is sent before it counts as poison. */
  maxAttempts?: number
}

// Many for the few thousand events in flight, so that two aggregates seldom meet.
const LANES = 65_536

type Done = (row: OutboxRow, settled: Settled) => void

/**
 * Publishes many aggregates at once and each aggregate one event at a time: an event is sent when the one before it is
 * acknowledged. Pipelining within an aggregate would invert its order whenever event i fails and i + 1 succeeds.
 */
export class OrderedPublisher {
  readonly #publisher: Publisher
  readonly #options: PublishOptions
  readonly #maxInFlight: number
  readonly #maxAttempts: number
  // By a hash of the aggregate's id: null while one of its events is in flight, or those that wait behind it. Aggregates
  // that share a lane wait for each other, which keeps both orders, and spares making a key of each event.
  readonly #lanes: (Job[] | null | undefined)[] = new Array(LANES)
  #unsettled = 0
  #stopped: string | undefined
  #wakeSubmitter: (() => void) | undefined
  #wakeDrained: (() => void) | undefined

  constructor(publisher: Publisher, options: PublishOptions) {
    this.#publisher = publisher
    this.#options = options
    this.#maxInFlight = options.maxInFlight ?? 4_096
    this.#maxAttempts = options.maxAttempts ?? 5
  }

  /** Why publishing stopped: set by the first outcome nobody can know. Nothing is sent after it. */
  get stopped(): string | undefined {
    return this.#stopped
  }

  /**
   * Publishes an event, after every earlier event of its aggregate is settled. `done` is called exactly once.
   * Resolves when there is room for another: await it, or memory grows.
   */
  submit(row: OutboxRow, done: Done): void | Promise<void> {
    const job = new Job(this, row, done)
    const { lane } = job
    this.#unsettled += 1
    const waiting = this.#lanes[lane]
    if (waiting) waiting.push(job)
    else if (waiting === null) this.#lanes[lane] = [job]
    else {
      this.#lanes[lane] = null
      if (!this.#start(job)) this.#lanes[lane] = undefined
    }
    if (this.#unsettled < this.#maxInFlight) return undefined
    return new Promise((resolve) => {
      this.#wakeSubmitter = resolve
    })
  }

  /** Resolves when everything submitted is settled. */
  drained(): Promise<void> {
    if (this.#unsettled === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#wakeDrained = resolve
    })
  }

  /** For a job in flight: what became of it. */
  conclude(job: Job, outcome: PublishOutcome): void {
    if (outcome.kind === 'stored') {
      this.#settle(job, { kind: 'stored', streamSeq: outcome.seq })
    } else if (outcome.kind === 'unknown') {
      this.#stopped ??= outcome.description
      this.#settle(job, { kind: 'unknown', description: outcome.description })
    } else if (job.attempts < this.#maxAttempts) {
      // Wrapped anew: to keep every message until its answer would keep most of the memory in use.
      if (this.#start(job)) return
    } else {
      this.#options.onPoison(job.row)
      const detail = `${outcome.description} (err_code ${outcome.code})`
      this.#settle(job, { kind: 'poison', reason: 'refused', detail, attempts: job.attempts })
    }
    this.#startNext(job.lane)
  }

  #startNext(lane: number): void {
    const waiting = this.#lanes[lane]
    for (let job = waiting?.shift(); job !== undefined; job = waiting?.shift()) {
      if (this.#start(job)) return
    }
    this.#lanes[lane] = undefined
  }

  /** True when the job is in flight; false when it settled at once. */
  #start(job: Job): boolean {
    const { mayStillSend, isHeld, isStored, onPoison } = this.#options
    if (this.#stopped !== undefined || !mayStillSend()) {
      this.#stopped ??= 'the lease ran out'
      this.#settle(job, { kind: 'unsent' })
      return false
    }
    if (isHeld(job.row)) {
      this.#settle(job, { kind: 'held' })
      return false
    }
    if (isStored?.(job.row)) {
      this.#settle(job, { kind: 'stored', streamSeq: 0 })
      return false
    }
    const wrapped = this.#wrapOrExplain(job.row)
    if (wrapped.kind === 'poison') {
      onPoison(job.row)
      this.#settle(job, { ...wrapped, attempts: 1 })
      return false
    }
    job.attempts += 1
    try {
      this.#publisher.send(wrapped.message, job)
    } catch (error) {
      // The connection closed under us; the publisher has not told the job anything and will not.
      this.#stopped ??= error instanceof Error ? error.message : String(error)
      this.#settle(job, { kind: 'unsent' })
      return false
    }
    return true
  }

  /** A mapped table may hold what nobody foresaw; an event that cannot even be wrapped stops no other. */
  #wrapOrExplain(row: OutboxRow): Enveloped {
    try {
      return this.#options.wrap(row)
    } catch (error) {
      return {
        kind: 'poison',
        reason: 'unserialisable',
        detail: error instanceof Error ? error.message : String(error),
      }
    }
  }

  #settle(job: Job, settled: Settled): void {
    this.#unsettled -= 1
    job.done(job.row, settled)
    // Some room at once rather than one place at a time: small writes to the socket cost more than they gain.
    if (this.#wakeSubmitter && this.#unsettled <= this.#maxInFlight * 0.75) {
      this.#wakeSubmitter()
      this.#wakeSubmitter = undefined
    }
    if (this.#unsettled === 0 && this.#wakeDrained) {
      this.#wakeDrained()
      this.#wakeDrained = undefined
    }
  }
}

// Of the module, not of the publisher: a class made anew for each would make V8 compile all that touches it anew.
class Job implements Sender {
  attempts = 0
  readonly publisher: OrderedPublisher
  readonly row: OutboxRow
  readonly lane: number
  readonly done: Done

  constructor(publisher: OrderedPublisher, row: OutboxRow, done: Done) {
    this.publisher = publisher
    this.row = row
    this.lane = aggregateHash(row) % LANES
    this.done = done
  }

  concluded(outcome: PublishOutcome): void {
    this.publisher.conclude(this, outcome)
  }
}

/** Identifies an aggregate within a service; the separator cannot occur in a Postgres text. */
export const aggregateKey = (row: { aggregateType: string; aggregateId: string }): string =>
  `${row.aggregateType}\0${row.aggregateId}`
