import type { Queryable } from '../../adapters/postgres/client.ts'
import { raiseIncident } from '../incident/raise.ts'

/** Tells ops and compliance that a gate was overruled, and against what; the caller has it approved and on record. */
export function breakGlass(
  { db }: { db: Queryable },
  {
    target,
    reasons,
    actor,
    reason,
  }: {
    target: string
    reasons: readonly { object: string; message: string }[]
    actor: string
    reason: string
  },
): Promise<{ id: string; opened: boolean }> {
  return raiseIncident(db, {
    dedupeKey: `billing/FM-22:break-glass:${target}`,
    severity: 'page',
    mode: 'billing/FM-22',
    service: 'billing',
    title: `The residency gate of ${target} was overruled`,
    detail: {
      actor,
      reason,
      against: reasons.map(({ object, message }) => `${object}: ${message}`),
      notify: ['ops', 'compliance'],
    },
    runbook: 'runbooks/billing/fm-22-residency-drift-in-recovery.md',
  })
}
