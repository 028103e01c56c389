import type { Database } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { type Contained, containFindings } from './contain.ts'
import { leakingDispatches, scanDispatches } from './scan-dispatches.ts'
import { scanLog } from './scan-log.ts'

/** Attempts that are read in one transaction. */
const BATCH = 500
const MOST_BATCHES = 40

export interface PatientDataPass extends Contained {
  attempts: number
  lines: number
  leaking: number
}

/**
 * One pass: reads what the dispatch log and the configured log files have gained, and contains what the guard and this
 * reading found. A log that cannot be read does not keep the others from it; it is thrown at the end.
 */
export async function watchPatientData(
  { db, config }: { db: Database; config: Pick<Config, 'messaging'> },
  { logs = config.messaging.logs, signal }: { logs?: readonly string[]; signal?: AbortSignal } = {},
): Promise<PatientDataPass> {
  let [attempts, lines, leaking] = [0, 0, 0]
  let failed: unknown
  for (let batch = 0; batch < MOST_BATCHES && !signal?.aborted; batch++) {
    const scan = await scanDispatches({ db }, { limit: BATCH })
    attempts += scan.read
    leaking += scan.leaking
    if (scan.read < BATCH) break
  }
  for (const path of logs) {
    for (let more = true; more && !signal?.aborted; ) {
      try {
        const scan = await scanLog({ db }, path)
        lines += scan.lines
        leaking += scan.leaking
        more = scan.more
      } catch (error) {
        failed = error
        more = false
      }
    }
  }
  const contained = await containFindings({ db })
  if (failed !== undefined) throw failed
  return { attempts, lines, leaking, ...contained }
}

/** Leaks that nobody was told of yet: findings without an incident, and attempts that leak and were not read yet. */
export async function openLeaks({ db }: { db: Database }): Promise<{
  findings: number
  attempts: number
  categories: string[]
}> {
  const { found } = await leakingDispatches({ db }, { limit: BATCH })
  const open = await db.query<{ category: string; n: number }>(
    'select category, count(*)::int as n from communication.phi_finding where incident_id is null group by 1',
  )
  return {
    findings: open.reduce((sum, { n }) => sum + n, 0),
    attempts: found.length,
    categories: [...new Set([...open, ...found].map(({ category }) => category))].sort().slice(0, 20),
  }
}
