import type { Publisher, PublishOutcome, Sender } from '../../adapters/nats/client.ts'
import type { Enveloped, PoisonReason } from './envelope.ts'
import type { OutboxRow } from './window.ts'

/** What became of one event. `unknown` means NATS is away: it may or may not be in the stream. */
export type Settled =
  | { kind: 'stored'; streamSeq: number }
  | { kind: 'poison'; reason: PoisonReason; detail: string; attempts: number }
  | { kind: 'held' }
  | { kind: 'unknown'; description: string }
  /** Never sent: the publisher had stopped, or the lease had run out. */
  | { kind: 'unsent' }

export interface OrderedPublisher {
  /**
   * Publishes an event, after every earlier event of its aggregate is settled. `done` is called exactly once.
   * Resolves when there is room for another: await it, or memory grows.
   */
  submit(row: OutboxRow, done: (row: OutboxRow, settled: Settled) => void): void | Promise<void>
  /** Resolves when everything submitted is settled. */
  drained(): Promise<void>
  /** Why publishing stopped: set by the first outcome nobody can know. Nothing is sent after it. */
  readonly stopped: string | undefined
}

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

/**
 * Publishes many aggregates at once and each aggregate one event at a time: an event is sent when the one before it is
 * acknowledged. Pipelining within an aggregate would invert its order whenever event i fails and i + 1 succeeds.
 */
export function orderedPublisher(publisher: Publisher, options: PublishOptions): OrderedPublisher {
  const { wrap, mayStillSend, isHeld, onPoison, isStored, maxInFlight = 1_024, maxAttempts = 5 } = options
  // A key is present while one of its events is in flight; the array holds those that wait behind it. Aggregates of
  // two types that share an id share a lane, which keeps both orders and spares making a key of two strings.
  const lanes = new Map<string, Job[] | undefined>()
  let unsettled = 0
  let stopped: string | undefined
  let wakeSubmitter: (() => void) | undefined
  let wakeDrained: (() => void) | undefined

  class Job implements Sender {
    attempts = 0
    readonly row: OutboxRow
    readonly done: (row: OutboxRow, settled: Settled) => void

    constructor(row: OutboxRow, done: Job['done']) {
      this.row = row
      this.done = done
    }

    concluded(outcome: PublishOutcome): void {
      if (outcome.kind === 'refused' && this.attempts < maxAttempts) {
        // Wrapped anew: to keep every message until its answer would keep most of the memory in use.
        if (!start(this)) next(this.row.aggregateId)
        return
      }
      conclude(this, outcome)
      next(this.row.aggregateId)
    }
  }

  const settle = (job: Job, settled: Settled) => {
    unsettled -= 1
    job.done(job.row, settled)
    // Some room at once rather than one place at a time: small writes to the socket cost more than they gain.
    if (wakeSubmitter && unsettled <= maxInFlight * 0.75) {
      wakeSubmitter()
      wakeSubmitter = undefined
    }
    if (unsettled === 0 && wakeDrained) {
      wakeDrained()
      wakeDrained = undefined
    }
  }

  /** True when the job is in flight; false when it settled at once. */
  const start = (job: Job): boolean => {
    if (stopped !== undefined || !mayStillSend()) {
      stopped ??= 'the lease ran out'
      settle(job, { kind: 'unsent' })
      return false
    }
    if (isHeld(job.row)) {
      settle(job, { kind: 'held' })
      return false
    }
    if (isStored?.(job.row)) {
      settle(job, { kind: 'stored', streamSeq: 0 })
      return false
    }
    const wrapped = wrapOrExplain(job.row)
    if (wrapped.kind === 'poison') {
      onPoison(job.row)
      settle(job, { ...wrapped, attempts: 1 })
      return false
    }
    job.attempts += 1
    try {
      publisher.send(wrapped.message, job)
    } catch (error) {
      // The connection closed under us; the publisher has not told the job anything and will not.
      stopped ??= error instanceof Error ? error.message : String(error)
      settle(job, { kind: 'unsent' })
      return false
    }
    return true
  }

  /** A mapped table may hold what nobody foresaw; an event that cannot even be wrapped stops no other. */
  const wrapOrExplain = (row: OutboxRow): Enveloped => {
    try {
      return wrap(row)
    } catch (error) {
      return {
        kind: 'poison',
        reason: 'unserialisable',
        detail: error instanceof Error ? error.message : String(error),
      }
    }
  }

  const conclude = (job: Job, outcome: PublishOutcome) => {
    switch (outcome.kind) {
      case 'stored':
        settle(job, { kind: 'stored', streamSeq: outcome.seq })
        break
      case 'refused':
        onPoison(job.row)
        settle(job, {
          kind: 'poison',
          reason: 'refused',
          detail: `${outcome.description} (err_code ${outcome.code})`,
          attempts: job.attempts,
        })
        break
      case 'unknown':
        stopped ??= outcome.description
        settle(job, { kind: 'unknown', description: outcome.description })
        break
    }
  }

  const next = (lane: string) => {
    const waiting = lanes.get(lane)
    for (let job = waiting?.shift(); job !== undefined; job = waiting?.shift()) {
      if (start(job)) return
    }
    lanes.delete(lane)
  }

  return {
    submit(row, done) {
      const job = new Job(row, done)
      const lane = row.aggregateId
      unsettled += 1
      if (lanes.has(lane)) {
        const waiting = lanes.get(lane)
        if (waiting) waiting.push(job)
        else lanes.set(lane, [job])
      } else {
        lanes.set(lane, undefined)
        if (!start(job)) lanes.delete(lane)
      }
      if (unsettled < maxInFlight) return undefined
      return new Promise((resolve) => {
        wakeSubmitter = resolve
      })
    },
    drained() {
      if (unsettled === 0) return Promise.resolve()
      return new Promise((resolve) => {
        wakeDrained = resolve
      })
    },
    get stopped() {
      return stopped
    },
  }
}

/** Identifies an aggregate within a service; the separator cannot occur in a Postgres text. */
export const aggregateKey = (row: { aggregateType: string; aggregateId: string }): string =>
  `${row.aggregateType}\0${row.aggregateId}`
