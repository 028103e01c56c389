import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Service } from '../../service.ts'

export interface Incident {
  id: string
  dedupeKey: string
  severity: 'page' | 'ticket' | 'info'
  mode: string
  service: Service | null
  title: string
  detail: Record<string, unknown>
  runbook: string | null
  occurrences: number
  state: 'open' | 'acked' | 'resolved'
  openedAt: Date
  lastSeenAt: Date
  ackedAt: Date | null
  ackedBy: string | null
  resolvedAt: Date | null
  resolvedBy: string | null
  resolution: string | null
  pagedAt: Date | null
  pageAttempts: number
}

const COLUMNS = `id, dedupe_key as "dedupeKey", severity, mode, service, title, detail, runbook, occurrences, state,
  opened_at as "openedAt", last_seen_at as "lastSeenAt", acked_at as "ackedAt", acked_by as "ackedBy",
  resolved_at as "resolvedAt", resolved_by as "resolvedBy", resolution, paged_at as "pagedAt",
  page_attempts as "pageAttempts"`

/** `unresolved` is open and acknowledged together. */
export const INCIDENT_STATES = ['unresolved', 'open', 'acked', 'resolved', 'all'] as const

/** Incidents, last opened first. */
export async function listIncidents(
  { db }: { db: Queryable },
  {
    state = 'unresolved',
    mode,
    service,
    limit = 100,
  }: {
    state?: (typeof INCIDENT_STATES)[number] | undefined
    mode?: string | undefined
    service?: string | undefined
    limit?: number
  } = {},
): Promise<Incident[]> {
  return db.query<Incident>(
    `select ${COLUMNS} from tabib.incident
     where ($1 = 'all' or state = $1 or ($1 = 'unresolved' and state <> 'resolved'))
       and ($2::text is null or mode = $2)
       and ($3::text is null or service = $3)
     order by opened_at desc, id desc limit $4`,
    [state, mode, service, limit],
  )
}

/** @throws TabibError NOT_FOUND */
export async function showIncident({ db }: { db: Queryable }, id: string): Promise<Incident> {
  const [incident] = isUuid(id)
    ? await db.query<Incident>(`select ${COLUMNS} from tabib.incident where id = $1`, [id])
    : []
  if (incident) return incident
  throw new TabibError('NOT_FOUND', `there is no incident "${id}"`, {
    suggestions: ['tabib incident list --state all'],
  })
}

const isUuid = (text: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)
