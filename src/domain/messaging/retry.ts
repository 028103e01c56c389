import type { Queryable } from '../../adapters/postgres/client.ts'

export interface RetryPlan {
  /** Messages that wait for their next attempt, by channel. */
  waiting: Record<string, number>
}

// Within two minutes a claim may end: what is being sent just now is left alone, and all else is due soon by itself.
const WAITS = `status = 'queued' and last_error is not null and due_at > clock_timestamp() + interval '2 minutes'
  and ($1::text is null or channel = $1)`

/** What a retry would bring forward; reads only. */
export async function planRetry(
  { db }: { db: Queryable },
  { channel }: { channel: string | undefined },
): Promise<RetryPlan> {
  const rows = await db.query<{ channel: string; n: number }>(
    `select channel, count(*)::int as n from communication.message where ${WAITS} group by channel order by channel`,
    [channel],
  )
  return { waiting: Object.fromEntries(rows.map(({ channel, n }) => [channel, n])) }
}

/** Makes due what was refused and would wait longer than two minutes for its next attempt. @returns how many. */
export async function retryMessages(
  { db }: { db: Queryable },
  { channel }: { channel: string | undefined },
): Promise<number> {
  const due = await db.query(
    `update communication.message set due_at = clock_timestamp() where ${WAITS} returning 1`,
    [channel],
  )
  return due.length
}
