import type { Logger } from 'pino'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { type NewIncident, raiseIncident } from '../incident/raise.ts'

/** Counts join tokens in memory and adds them to the database every second: a flood costs a few rows a minute. */
export interface Tally extends AsyncDisposable {
  /**
   * What became of a token: `issued`, `unsigned`, `accepted`, or why it was refused. `kid` only of a key that exists:
   * callers of the API can write anything.
   */
  count(outcome: string, kid?: string): void
}

const FLUSH_EVERY_MS = 1_000

/**
 * Opens a tally. When tokens could not be signed, or were never issued although their signature holds, it pages:
 * at once, and once while the incident is open. What it cannot write now it adds later.
 */
export function openTally({ db, log }: { db: Database; log: Logger }): Tally {
  let counts = new Map<string, number>()
  const flush = async () => {
    if (counts.size === 0) return
    const sent = counts
    counts = new Map()
    // In one order for every replica: two that lock the same rows crosswise would wait for each other.
    const rows = [...sent]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, n]) => [...key.split(' '), n] as [outcome: string, kid: string, n: number])
    try {
      await db.transaction(async (tx) => {
        await tx.query(
          `insert into tabib.join_token_count as seen (minute, outcome, kid, n)
           select date_trunc('minute', clock_timestamp()), * from unnest($1::text[], $2::text[], $3::bigint[])
           on conflict (minute, outcome, kid) do update set n = seen.n + excluded.n`,
          [rows.map(([outcome]) => outcome), rows.map(([, kid]) => kid), rows.map(([, , n]) => n)],
        )
        for (const [outcome, kid, n] of rows) {
          const page = PAGES[outcome]
          if (page)
            await raiseIncident(tx, { severity: 'page', ...page(kid), detail: { kid, lastSecond: n } })
        }
      })
    } catch (err) {
      log.warn({ err }, 'join tokens could not be counted yet')
      for (const [key, n] of sent) counts.set(key, (counts.get(key) ?? 0) + n)
    }
  }
  let flushing = Promise.resolve()
  const timer = setInterval(() => {
    flushing = flushing.then(flush)
  }, FLUSH_EVERY_MS)
  return {
    count(outcome, kid = '') {
      const key = `${outcome} ${kid}`
      counts.set(key, (counts.get(key) ?? 0) + 1)
    },
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await flushing
      await flush()
    },
  }
}

const PAGES: Record<string, (kid: string) => Omit<NewIncident, 'severity' | 'detail'>> = {
  unsigned: () => ({
    dedupeKey: 'virtual-care/F13',
    mode: 'virtual-care/F13',
    service: 'virtual-care',
    title: 'Join tokens cannot be signed',
    runbook: 'runbooks/virtual-care/f13-kms-unavailable.md',
  }),
  'not-issued': (kid) => ({
    dedupeKey: `communication/C10:${kid}`,
    mode: 'communication/C10',
    service: 'communication',
    title: `Join tokens that were never issued are signed with key ${kid}: it leaked`,
    runbook: 'runbooks/communication/c10-join-token-forged.md',
  }),
}

/** Forgets counts that are older than a month. */
export async function forgetJoinCounts({ db }: { db: Queryable }): Promise<void> {
  await db.query(`delete from tabib.join_token_count where minute < clock_timestamp() - interval '30 days'`)
}
