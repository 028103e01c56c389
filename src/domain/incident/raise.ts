import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Service } from '../../service.ts'

export interface NewIncident {
  /** What makes two reports one incident while it is not resolved, e.g. `billing/FM-18:<fingerprint>`. */
  dedupeKey: string
  severity: 'page' | 'ticket' | 'info'
  /** The failure mode's id. */
  mode: string
  service?: Service | undefined
  title: string
  /** Ids and figures; never a payload or personal data. */
  detail?: Record<string, unknown>
  /** The runbook's path from the package root. */
  runbook?: string | undefined
}

/**
 * Opens an incident, or counts one more occurrence of the one that is open under the same key. Works in the caller's
 * transaction when given one, so that the incident commits with what caused it. Paging is `deliverPages`.
 */
export async function raiseIncident(
  db: Queryable,
  incident: NewIncident,
): Promise<{ id: string; opened: boolean }> {
  const [raised] = await db.query<{ id: string; opened: boolean }>(
    `insert into tabib.incident as seen (dedupe_key, severity, mode, service, title, detail, runbook)
     values ($1, $2, $3, $4, $5, $6, $7)
     on conflict (dedupe_key) where state <> 'resolved' do update
       set occurrences = seen.occurrences + 1, last_seen_at = clock_timestamp(), detail = excluded.detail
     returning id, xmax = 0 as opened`,
    [
      incident.dedupeKey,
      incident.severity,
      incident.mode,
      incident.service,
      incident.title,
      JSON.stringify(incident.detail ?? {}, (_, value) =>
        typeof value === 'bigint' ? value.toString() : value,
      ),
      incident.runbook,
    ],
  )
  return raised!
}
