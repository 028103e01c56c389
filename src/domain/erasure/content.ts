import type { Attachments } from '../../adapters/attachments/client.ts'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { raiseIncident } from '../incident/raise.ts'
import { resolveByKey } from '../incident/resolve.ts'
import { scanResidue } from './residual-scan.ts'
import { type ErasureSecret, shortName } from './secret.ts'

/** Something stored says an identifier of somebody who was erased. */
export interface Content {
  tenantId: string
  subject: string
  /** A table or a stream. */
  object: string
  /** Of identifier. */
  kind: string
  count: number
}

export interface ContentSystems {
  readonly db: Database
  readonly nats: Nats
  readonly config: Config
  readonly attachments: Attachments | undefined
  erasureSecret(): Promise<ErasureSecret>
}

export interface ContentScan {
  tenants: number
  rows: number
  bytes: number
  found: Content[]
  unread: { object: string; why: string }[]
}

/**
 * Reads all text and JSON of every tenant that had somebody erased, in search of their identifiers in whatever encoding
 * (docs/erasure.md). What is found stands where no participant looks: in a text about somebody else, or in a wrong place.
 */
export async function scanContent(
  { db, nats, config, attachments, erasureSecret }: ContentSystems,
  { tenantId, signal }: { tenantId?: string | undefined; signal: AbortSignal },
): Promise<ContentScan> {
  const erased = await db.query<{ tenantId: string; hashes: Buffer[] }>(
    `select tenant_id as "tenantId", array_agg(subject_hash) as hashes from tabib.erasure_subject s
     where ($1::uuid is null or tenant_id = $1) and not exists (
       select from tabib.erasure_request r
       where (r.tenant_id, r.subject_hash) = (s.tenant_id, s.subject_hash) and r.state = 'open')
     group by tenant_id order by tenant_id`,
    [tenantId],
  )
  const all: ContentScan = { tenants: erased.length, rows: 0, bytes: 0, found: [], unread: [] }
  const redis = { cache: config.redisCacheUrl, queue: config.redisUrl }
  for (const one of erased) {
    const scan = await scanResidue({ db, nats, redis, attachments, erasureSecret }, { ...one, signal })
    all.rows += scan.rows
    all.bytes += scan.bytes
    all.unread.push(...scan.unread)
    for (const { subject, ...hit } of scan.hits) {
      const name = shortName(Buffer.from(subject, 'hex'))
      all.found.push({ tenantId: one.tenantId, subject: name, ...hit })
    }
  }
  return all
}

/** Opens an incident for each tenant where something was found, and closes it where nothing is any more. */
export async function tellContent({ db }: { db: Queryable }, { found }: ContentScan): Promise<void> {
  const mode = 'communication/C15'
  const keyOf = (tenantId: string) => `${mode}/content:${tenantId}`
  const tenants = new Set(found.map(({ tenantId }) => tenantId))
  for (const tenantId of tenants) {
    const there = found.filter((one) => one.tenantId === tenantId)
    await raiseIncident(db, {
      dedupeKey: keyOf(tenantId),
      severity: 'page',
      mode,
      service: 'communication',
      title: `erasure: identifiers of erased patients stand in ${[...new Set(there.map(({ object }) => object))].join(', ')}`,
      detail: { tenantId, found: there.slice(0, 50).map(({ tenantId: _, ...one }) => one) },
      runbook: 'runbooks/communication/c15-erasure-partial.md',
    })
  }
  const open = await db.query<{ key: string }>(
    `select dedupe_key as key from tabib.incident where state <> 'resolved' and starts_with(dedupe_key, $1)`,
    [`${mode}/content:`],
  )
  const still = new Set([...tenants].map(keyOf))
  for (const { key } of open.filter((one) => !still.has(one.key))) {
    await resolveByKey(db, {
      dedupeKey: key,
      by: 'erasure-scan',
      resolution: 'nothing of them is found any more',
    })
  }
}
