import type { Queryable } from '../../adapters/postgres/client.ts'

/** Patient data where it must not be: where and of what kinds, never what it says. */
export interface FoundPatientData {
  tenantId: string
  source: 'pre-send' | 'dispatch-log' | 'log'
  /** An attempt's id, or a file and a byte in it. */
  place: string
  channel: string | null
  category: string
  template: { id: string; version: number } | null
  /** Kinds by the variable, or the member of a row, that held them. */
  evidence: Record<string, string[]>
}

/**
 * Puts a finding on record and halts its category for its tenant, in the caller's transaction; a place that is on record
 * halts nothing once more. Incident and template are `containFindings`'s.
 */
export async function recordFinding(tx: Queryable, found: FoundPatientData): Promise<boolean> {
  const { tenantId, source, place, channel, category, template, evidence } = found
  const [added] = await tx.query(
    `insert into communication.phi_finding (tenant_id, source, place, channel, category, template, template_version, evidence)
     values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (tenant_id, source, place) do nothing returning 1 as added`,
    [tenantId, source, place, channel, category, template?.id, template?.version, JSON.stringify(evidence)],
  )
  if (added === undefined) return false
  await tx.query(
    `insert into communication.category_halt (tenant_id, category) values ($1, $2)
     on conflict (tenant_id, category) where resumed_at is null do nothing`,
    [tenantId, category],
  )
  return true
}
