import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { listQuarantine, type QuarantinedEvent, type QuarantineFilter, type QuarantineState } from './list.ts'
import { isUuid, notInQuarantine } from './show.ts'

/** More at once would be a plan that nobody reads. */
const MOST_EVENTS = 100_000

/**
 * The events that a filter or a list of ids means, in the order they happened, as far as they are in one of the states.
 * @throws TabibError NOT_FOUND when an id is not in quarantine at all, USAGE when they are too many.
 */
export async function planEvents(
  { db }: { db: Queryable },
  filter: QuarantineFilter,
  states: readonly QuarantineState[],
): Promise<QuarantinedEvent[]> {
  const ids = filter.ids?.map((id) => id.toLowerCase())
  if (ids) {
    const unknown = ids.filter((id) => !isUuid(id))
    if (unknown.length > 0) throw notInQuarantine(unknown)
    const found = new Set((await listQuarantine({ db }, { ids }, { limit: ids.length })).map(({ id }) => id))
    const missing = ids.filter((id) => !found.has(id))
    if (missing.length > 0) throw notInQuarantine(missing)
  }
  const events = await listQuarantine(
    { db },
    { ...filter, ids, states },
    { limit: MOST_EVENTS + 1, order: 'happened' },
  )
  if (events.length <= MOST_EVENTS) return events
  throw new TabibError('USAGE', `over ${MOST_EVENTS} events are meant`, {
    suggestions: ['tabib dlq list --group', 'the same command with --fingerprint <fingerprint>'],
  })
}

/** How many events failed in which way: what an operator reads before saying yes. */
export function summarise(events: readonly QuarantinedEvent[]): string {
  const groups = new Map<string, number>()
  for (const { service, consumer, origin, reason, fingerprint } of events) {
    const group = `${service} ${consumer ?? origin}: ${reason} (${fingerprint})`
    groups.set(group, (groups.get(group) ?? 0) + 1)
  }
  return [...groups].map(([group, count]) => `  ${count} × ${group}`).join('\n')
}
