import { setTimeout as delay } from 'node:timers/promises'
import { TabibError } from '../../errors.ts'
import { ERASURE_STREAM, type ListSystems, missingFacts, readMark } from './remember.ts'

/** Whether a database has all that the list says; `unknown` while nobody can tell, which lets no traffic in either. */
export type RestoreState = { kind: 'applied' } | { kind: 'missing' | 'unknown'; why: string }

/** Keeps traffic off a database that was restored to a time before an erasure. */
export interface RestoreGuard {
  state(): Promise<RestoreState>
  /** @throws TabibError ERASURES_MISSING while the database lacks something of the list of erasures outside of it. */
  assertApplied(): Promise<void>
}

/** Less than a probe waits. */
const LIST_WITHIN_MS = 1_500

/**
 * Asks the list at each call, from where the database's own mark stands. While NATS is away, a database is let through that
 * this process has seen whole before, or whose mark was set in this very database and not in a copy of it; no other is.
 */
export function openRestoreGuard(
  systems: ListSystems & { readonly config: { readonly natsUrl: string | undefined } },
): RestoreGuard {
  // How far this process has read the list for this database, and where the mark stood then.
  let seen: { here: string; mark: number; created: string; upTo: number } | undefined
  const state = async (): Promise<RestoreState> => {
    const mark = await readMark(systems.db)
    if (mark.reapplying) {
      return { kind: 'missing', why: 'the list of erasures is being re-applied, or that was interrupted' }
    }
    if (systems.config.natsUrl === undefined) {
      if (mark.seq === 0) return { kind: 'applied' }
      return { kind: 'unknown', why: 'no NATS is configured, which has the list of erasures' }
    }
    // A mark that went back is of another time; a failover begins another timeline of the same database.
    const here = mark.here.replace(/\/\d+$/, '')
    if (seen && (seen.here !== here || seen.mark > mark.seq)) seen = undefined
    const stream = await within(LIST_WITHIN_MS, systems.nats.stream(ERASURE_STREAM.name))
    if (stream === 'away') {
      if (seen || mark.setIn === mark.here) return { kind: 'applied' }
      const why =
        'NATS is away, which has the list of erasures: nobody can tell whether this database was restored'
      return { kind: 'unknown', why }
    }
    // A list that was lost is written again, from the database.
    if (stream === undefined) return { kind: 'applied' }
    const { created } = stream
    const same = mark.streamCreated === null || mark.streamCreated.getTime() === new Date(created).getTime()
    let upTo = Math.max(same ? mark.seq : 0, seen?.created === created ? seen.upTo : 0)
    if (stream.state.last_seq > upTo) {
      for await (const batch of missingFacts(systems, { after: upTo })) {
        const n = batch.missing.length
        if (n > 0) {
          const why = `the database was restored to a time before ${n} or more ${n === 1 ? 'entry' : 'entries'} of the list of erasures`
          return { kind: 'missing', why }
        }
        upTo = batch.seq
      }
    }
    seen = { here, mark: mark.seq, created, upTo }
    return { kind: 'applied' }
  }
  return {
    state,
    async assertApplied() {
      const now = await state()
      if (now.kind !== 'applied') throw missing(now.why)
    },
  }
}

const missing = (why: string): TabibError =>
  new TabibError('ERASURES_MISSING', `${why}; it takes no traffic before: tabib erasure reapply`, {
    suggestions: ['tabib erasure reapply --dry-run'],
  })

/** @throws whatever `work` throws, except that NATS is not there. */
async function within<T>(ms: number, work: Promise<T>): Promise<T | 'away'> {
  const late = new AbortController()
  try {
    return await Promise.race([work, delay(ms, 'away' as const, { signal: late.signal })])
  } catch (error) {
    if (error instanceof TabibError && error.code === 'NATS_UNREACHABLE') return 'away'
    throw error
  } finally {
    late.abort()
  }
}
