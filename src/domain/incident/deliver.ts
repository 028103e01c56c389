import type { Page, Pager } from '../../adapters/pager/client.ts'
import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

export interface Delivery {
  /** Incidents that were paged now. */
  paged: number
  /** Resolutions that were passed on now. */
  resolved: number
  /** Why the pass ended early; what is left stays due and is tried again, later each time. */
  failure: string | undefined
}

/**
 * One pass: pages every open incident of severity `page` that is due, and tells the pager of those resolved since.
 * Several may run at once. The row is marked after the pager took the page, so a crash between the two repeats a call
 * that the pager recognises by the incident's id. Does nothing while no pager is configured.
 */
export async function deliverPages(
  { db, pager }: { db: Database; pager: Pager },
  { limit = 100 }: { limit?: number } = {},
): Promise<Delivery> {
  const delivery: Delivery = { paged: 0, resolved: 0, failure: undefined }
  if (pager.targets.length === 0) return delivery
  for (let left = limit; left > 0; left--) {
    const done = await db.transaction((tx) => pageNext(tx, pager))
    if (done === 'none') break
    if (done === 'paged') delivery.paged += 1
    else return { ...delivery, failure: done.failure }
  }
  for (let left = limit; left > 0; left--) {
    const done = await db.transaction((tx) => passOnNextResolution(tx, pager))
    if (done === 'none') break
    if (done === 'paged') delivery.resolved += 1
    else return { ...delivery, failure: done.failure }
  }
  return delivery
}

type Step = 'none' | 'paged' | { failure: string }

const PAGE_COLUMNS = `id as "incidentId", mode, severity, service, title, runbook, occurrences,
  opened_at as "startedAt", coalesce(detail->'notify', '[]') as notify`

async function pageNext(tx: Transaction, pager: Pager): Promise<Step> {
  const [page] = await tx.query<Page>(
    `select ${PAGE_COLUMNS} from tabib.incident
     where state = 'open' and severity = 'page' and paged_at is null and next_page_at <= clock_timestamp()
     order by opened_at limit 1 for update skip locked`,
  )
  if (!page) return 'none'
  const failure = await failureOf(pager.raise(page))
  if (failure === undefined) {
    await tx.query(
      `update tabib.incident set paged_at = clock_timestamp(), page_attempts = page_attempts + 1 where id = $1`,
      [page.incidentId],
    )
    return 'paged'
  }
  await postpone(tx, page.incidentId)
  return { failure }
}

async function passOnNextResolution(tx: Transaction, pager: Pager): Promise<Step> {
  const [page] = await tx.query<Page & { resolvedAt: Date }>(
    `select ${PAGE_COLUMNS}, resolved_at as "resolvedAt" from tabib.incident
     where state = 'resolved' and paged_at is not null and resolution_sent_at is null
       and next_page_at <= clock_timestamp()
     order by resolved_at limit 1 for update skip locked`,
  )
  if (!page) return 'none'
  const { resolvedAt, ...raised } = page
  const failure = await failureOf(pager.resolve(raised, resolvedAt))
  if (failure === undefined) {
    await tx.query('update tabib.incident set resolution_sent_at = clock_timestamp() where id = $1', [
      page.incidentId,
    ])
    return 'paged'
  }
  await postpone(tx, page.incidentId)
  return { failure }
}

// 2 s, 4 s, 8 s … at most 5 min, give or take a quarter: a pager that comes back is not met by all at once.
async function postpone(tx: Transaction, id: string): Promise<void> {
  await tx.query(
    `update tabib.incident
     set page_attempts = page_attempts + 1,
         next_page_at = clock_timestamp()
           + make_interval(secs => least(300, 2 ^ least(page_attempts + 1, 10)) * (0.75 + random() / 2))
     where id = $1`,
    [id],
  )
}

async function failureOf(call: Promise<void>): Promise<string | undefined> {
  try {
    await call
    return undefined
  } catch (error) {
    if (error instanceof TabibError && error.code === 'PAGER_UNREACHABLE') return error.message
    throw error
  }
}
