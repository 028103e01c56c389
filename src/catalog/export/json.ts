import type { FailureMode } from '../failure-mode.ts'
import { runbookPath } from '../runbook.ts'
import { specRow } from '../spec.ts'

/** The catalog as data: each card with the specification's row; functions are left out. */
export function catalogJson(modes: readonly FailureMode[]): object[] {
  return modes.map((mode) => {
    const { id, kind, title, severity, state } = mode
    const base = {
      id,
      kind,
      title,
      severity,
      state,
      runbook: runbookPath(id) ?? null,
      spec: specRow(id) ?? null,
    }
    if (mode.state === 'planned') return base
    const { metric, fires, entails } = mode.detect
    return {
      ...base,
      detect: { metric, fires, for: mode.detect.for ?? null, entails },
      mitigate: mode.mitigate,
    }
  })
}
