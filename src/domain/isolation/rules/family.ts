import type { Finding } from '../../../finding.ts'
import type { Judging } from '../confinement.ts'
import type { TenantTables } from '../tenant-tables.ts'

/** What the rules judge. */
export interface Judged {
  judging: Judging
  tenants: TenantTables
  /** Who checks: its own memberships are no finding. */
  connectedAs: string
}

/** Rules that belong together: what holds where each passes, and what speaks against them. */
export interface Family {
  titles: Record<string, string>
  findings(judged: Judged): Finding[]
}

const RUNBOOK = 'runbooks/billing/fm-15-row-level-security-off.md'

/** One finding of this check, an error unless it says otherwise. */
export function finding<Rule extends string>(
  rule: Rule,
  object: string,
  message: string,
  {
    severity = 'error',
    evidence = {},
    fix = null,
  }: { severity?: Finding['severity']; evidence?: Record<string, unknown>; fix?: string | null } = {},
): Finding {
  return {
    id: `isolation/${rule}`,
    check: 'isolation check',
    severity,
    object,
    message,
    evidence,
    fix,
    runbook: RUNBOOK,
    cacheKey: `isolation/${rule}:${object}`,
    waived: false,
  }
}
