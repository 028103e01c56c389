import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { raiseIncident } from '../incident/raise.ts'

const MODE = 'communication/C11'

interface Finding {
  id: string
  tenantId: string
  tenant: string
  source: string
  place: string
  channel: string | null
  category: string
  template: string | null
  version: number | null
  evidence: Record<string, string[]>
}

export interface Contained {
  findings: number
  incidents: number
  /** Versions that were taken out of use, and the one that is in use instead: null where there is none any more. */
  rotated: { template: string; retired: number; current: number | null }[]
}

/**
 * For findings without an incident: one incident a tenant and category, with evidence that says where and of what kind, and
 * the template's version taken out of use for the one before it. Each finding in a transaction of its own.
 */
export async function containFindings({ db }: { db: Database }): Promise<Contained> {
  const contained: Contained = { findings: 0, incidents: 0, rotated: [] }
  const open = await db.query<{ tenantId: string; id: string }>(
    `select tenant_id as "tenantId", id from communication.phi_finding where incident_id is null order by found_at limit 500`,
  )
  for (const { tenantId, id } of open) {
    await db.transaction(async (tx) => {
      const [finding] = await tx.query<Finding>(
        `select f.id, f.tenant_id as "tenantId", t.slug as tenant, source, place, channel, category, template,
           template_version as version, evidence
         from communication.phi_finding f join tabib.tenant t on t.id = f.tenant_id
         where f.tenant_id = $1 and f.id = $2 and incident_id is null for update of f`,
        [tenantId, id],
      )
      if (finding === undefined) return
      const { opened, rotated } = await contain(tx, finding)
      contained.findings += 1
      contained.incidents += opened ? 1 : 0
      if (rotated) contained.rotated.push(rotated)
    })
  }
  return contained
}

async function contain(tx: Transaction, finding: Finding) {
  const { tenantId, tenant, category, source, place, channel, template, version, evidence } = finding
  const incident = await raiseIncident(tx, {
    dedupeKey: `${MODE}:${tenantId}:${category}`,
    severity: 'page',
    mode: MODE,
    service: 'communication',
    title: `Patient data in messages of ${tenant}: ${category} is halted`,
    detail: { tenant, category, source, place, channel, template, version, found: evidence },
    runbook: 'runbooks/communication/c11-patient-data-in-push.md',
  })
  await tx.query('update communication.phi_finding set incident_id = $3 where tenant_id = $1 and id = $2', [
    tenantId,
    finding.id,
    incident.id,
  ])
  const rotated =
    template === null || version === null
      ? undefined
      : await rotateTemplate(tx, { template, version }, incident.id)
  return { opened: incident.opened, rotated }
}

/** The version before it that is not retired is in use again; where there is none, nothing goes out until one is published. */
async function rotateTemplate(
  tx: Transaction,
  { template, version }: { template: string; version: number },
  incidentId: string,
): Promise<Contained['rotated'][number] | undefined> {
  const [retired] = await tx.query(
    `update communication.template set state = 'retired', retired_at = clock_timestamp(), retired_for = $3
     where id = $1 and version = $2 and state <> 'retired' returning version`,
    [template, version, incidentId],
  )
  if (retired === undefined) return undefined
  const [current] = await tx.query<{ version: number }>(
    `update communication.template t set state = 'current'
     where id = $1 and version = (
         select max(version) from communication.template where id = $1 and state <> 'retired')
       and not exists (select from communication.template where id = $1 and state = 'current')
     returning version`,
    [template],
  )
  const [inUse] = current
    ? [current]
    : await tx.query<{ version: number }>(
        `select version from communication.template where id = $1 and state = 'current'`,
        [template],
      )
  return { template, retired: version, current: inUse?.version ?? null }
}
