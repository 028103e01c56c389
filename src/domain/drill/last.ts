import type { Queryable } from '../../adapters/postgres/client.ts'

export interface DrillRun {
  id: string
  startedAt: Date
  passed: boolean
  /** Seconds; null where the drill did not come so far. */
  detectS: number | null
  mitigateS: number | null
  recoverS: number | null
}

/** The newest drill of a mode in this database; control runs and runs without mitigation do not count. */
export async function lastDrill({ db }: { db: Queryable }, mode: string): Promise<DrillRun | undefined> {
  const [run] = await db.query<DrillRun>(
    `select id, started_at as "startedAt", passed, detect_s as "detectS", mitigate_s as "mitigateS",
            recover_s as "recoverS"
     from tabib.drill_run
     where mode = $1 and kind = 'drill'
     order by started_at desc
     limit 1`,
    [mode],
  )
  return run
}
