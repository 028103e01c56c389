import { setTimeout as delay } from 'node:timers/promises'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

const LIMIT_MS = 3_000

/** Whether Postgres takes writes: 1, or 0 where none of its hosts does or answers, and why. */
export async function takesWrites({ db }: { db: Queryable }): Promise<{ value: number; why?: string }> {
  try {
    const asked = db.query<{ readonly: boolean }>(
      `select current_setting('transaction_read_only') = 'on' as readonly`,
    )
    // Whoever waits longer for a commit has none.
    const late = delay(LIMIT_MS, undefined, { ref: false }).then(() => undefined)
    const rows = await Promise.race([asked, late])
    if (rows === undefined) {
      asked.catch(() => {})
      return { value: 0, why: `no answer within ${LIMIT_MS / 1_000} s` }
    }
    return rows[0]?.readonly ? { value: 0, why: 'it is read-only' } : { value: 1 }
  } catch (error) {
    if (!(error instanceof TabibError) || error.code !== 'POSTGRES_UNREACHABLE') throw error
    return { value: 0, why: error.message }
  }
}
