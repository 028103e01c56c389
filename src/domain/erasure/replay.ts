import { findReturned, reopenReturned } from './returned.ts'
import { erasurePass, type SagaPass, type SagaSystems } from './saga.ts'

export interface ReplayPlan {
  /** What will be sent once more, by participant. */
  missing: { requestId: string; participants: string[] }[]
}

export interface Replayed extends SagaPass {
  /** Subjects that had come back. */
  returned: number
}

/** What a replay would send: what is missing and nothing else. Reads only. */
export async function planReplay(
  { db }: Pick<SagaSystems, 'db'>,
  { requestIds }: { requestIds?: string[] | undefined },
): Promise<ReplayPlan> {
  const missing = await db.query<ReplayPlan['missing'][number]>(
    `select request_id as "requestId", array_agg(participant order by stage, participant) as participants
     from tabib.erasure_step
     where state in ('waiting', 'sent') and ($1::uuid[] is null or request_id = any($1))
     group by request_id order by request_id`,
    [requestIds],
  )
  return { missing }
}

/**
 * Sends what is missing now, instead of when its turn would come, and looks for whoever came back. Steps that are done are
 * not done again; steps of a later stage follow by the erasure-replay worker.
 */
export async function replayErasures(
  systems: SagaSystems,
  { requestIds, signal }: { requestIds?: string[] | undefined; signal?: AbortSignal },
): Promise<Replayed> {
  const { db } = systems
  const secret = await systems.erasureSecret()
  const returned =
    requestIds === undefined
      ? await reopenReturned({ db, secret }, await findReturned({ db, secret }, signal ? { signal } : {}))
      : 0
  await db.query(
    `update tabib.erasure_step set next_attempt_at = clock_timestamp()
     where state in ('waiting', 'sent') and ($1::uuid[] is null or request_id = any($1))`,
    [requestIds],
  )
  return { ...(await erasurePass(systems, signal ? { signal } : {})), returned }
}
