/** What every check reports, one object a finding (docs/cli.md, rule 11). */
export interface Finding {
  id: string
  check: string
  severity: 'critical' | 'error' | 'warning' | 'info'
  object: string
  message: string
  /** Figures and ids; never a secret or personal data. */
  evidence: Record<string, unknown>
  /** The command that mends it. */
  fix: string | null
  /** The runbook's path from the package root. */
  runbook: string | null
  cacheKey: string | null
  waived: boolean
  /** Who answers for letting it be. */
  waiver?: { owner: string; reason: string; expires: string }
  /** Where it stands, for a finding about a file: its path from the working directory. */
  location?: { file: string; line?: number }
}
