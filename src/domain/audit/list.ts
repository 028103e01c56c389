import type { Queryable } from '../../adapters/postgres/client.ts'

export interface AuditFilter {
  /** Newest first, at most this many. */
  limit: number
  /** Only what happened within this many milliseconds. */
  sinceMs?: number | undefined
  runId?: string | undefined
  command?: string | undefined
  actor?: string | undefined
}

/** Records of the trail, newest first, with their place in the chain as hex. */
export async function listAudit(
  { db }: { db: Queryable },
  filter: AuditFilter,
): Promise<Record<string, unknown>[]> {
  const rows = await db.query<{ record: Record<string, unknown>; prevHash: string; hash: string }>(
    `select record, encode(prev_hash, 'hex') as "prevHash", encode(hash, 'hex') as hash
     from tabib.audit
     where ($2::float8 is null or ts >= clock_timestamp() - make_interval(secs => $2 / 1000))
       and ($3::uuid is null or run_id = $3)
       and ($4::text is null or record->>'command' = $4)
       and ($5::text is null or record->>'actor' = $5)
     order by seq desc limit $1`,
    [filter.limit, filter.sinceMs, filter.runId, filter.command, filter.actor],
  )
  return rows.map(({ record, prevHash, hash }) => ({ ...record, prevHash, hash }))
}
