import { setTimeout as delay } from 'node:timers/promises'
import type { Database } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

const COMMIT_WITHIN_MS = 2_500
const LIMIT_MS = 4_000

/** 1 where Postgres takes writes; otherwise 0, and why it does not. */
export type TakesWrites = { value: number; why?: string }

/**
 * Whether any host of the database takes writes. It commits some bytes of WAL that say nothing, since a host may be primary
 * and acknowledge no commit: without a synchronous standby, or with a full disk.
 */
export async function takesWrites(systems: { db: Pick<Database, 'transaction'> }): Promise<TakesWrites> {
  // One that hangs keeps the connection open and says nothing.
  const late = new AbortController()
  try {
    return await Promise.race([
      commits(systems),
      delay(LIMIT_MS, { value: 0, why: `no answer within ${LIMIT_MS / 1_000} s` }, { signal: late.signal }),
    ])
  } finally {
    late.abort()
  }
}

async function commits({ db }: { db: Pick<Database, 'transaction'> }): Promise<TakesWrites> {
  try {
    const readOnly = await db.transaction(async (tx) => {
      const [row] = await tx.query<{ readOnly: boolean }>(
        `select current_setting('transaction_read_only') = 'on' as "readOnly", set_config('statement_timeout', $1, true)`,
        [String(COMMIT_WITHIN_MS)],
      )
      if (!row!.readOnly) await tx.query(`select pg_logical_emit_message(true, 'tabib', '')`)
      return row!.readOnly
    })
    if (readOnly) return { value: 0, why: 'it is read-only' }
    return (await hasFullDisk(db)) ? { value: 0, why: 'its disk is full' } : { value: 1 }
  } catch (error) {
    if (error instanceof TabibError && error.code === 'POSTGRES_UNREACHABLE')
      return { value: 0, why: error.message }
    if (error instanceof TabibError && error.code === 'NOT_REPLICATED')
      return { value: 0, why: `a commit found no synchronous standby within ${COMMIT_WITHIN_MS / 1_000} s` }
    throw error
  }
}

/**
 * Whether there is no room for some hundred kB, by a sort that has too little memory and writes a temporary file: that
 * changes nothing, on a replica neither. Undefined where nobody can tell.
 */
export async function hasFullDisk(db: Pick<Database, 'transaction'>): Promise<boolean | undefined> {
  try {
    await db.transaction(async (tx) => {
      await tx.query(`select set_config('work_mem', '64kB', true), set_config('temp_tablespaces', '', true)`)
      await tx.query('select g from generate_series(1, 5000) g order by g desc offset 4999')
    })
    return false
  } catch (error) {
    const cause = (error as Error).cause as { code?: string } | undefined
    return cause?.code === DISK_FULL || undefined
  }
}

const DISK_FULL = '53100'
