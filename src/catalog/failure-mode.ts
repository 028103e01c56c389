import type { App } from '../app.ts'
import type { World } from '../sandbox/world.ts'
import type { Service } from '../service.ts'

export type Severity = 'page' | 'ticket' | 'info'

/** `<service>/<id>` as the specification spells it; `tabib/<slug>` for our own modes. */
export type ModeId = `${Service}/${string}` | `sync/${string}` | `tabib/${string}`

/**
 * When a measured figure means the failure is there. The same definition judges `tabib status` and becomes the
 * Prometheus expression, so the two cannot drift apart.
 */
export type Fires =
  | { above: number; unit?: string }
  | { below: number; unit?: string }
  /**
   * Every metric named rises over the window: the least of its later half is above the most of its earlier half, which
   * the ups and downs of normal work are not. Its `value` is the smallest of those rises.
   */
  | { climbs: string[]; overS: number }

/** What a detector saw. `value` is the figure that `fires` judges; undefined when there is too little evidence yet. */
export interface Reading {
  value: number | undefined
  /** Figures beside the value that an operator wants to see: ids and counts, never personal data. */
  evidence?: Record<string, unknown>
}

export interface Detect {
  /** The metric that /metrics exports and the Prometheus rule reads. */
  metric: string
  /** The same figure, asked directly: what `tabib status` shows. Reads only. */
  measure(app: App): Promise<Reading>
  fires: Fires
  /** One sentence for the operator: what the value means. */
  says(value: number): string
  /** How long Prometheus waits before it alerts, e.g. `1m`; absent: at once. */
  for?: string
  /** Modes that may rightly fire with this one. */
  entails: ModeId[]
}

export interface Drill {
  /**
   * Breaks the real thing; disposing what it returns always restores it. It returns once the fault is in place and the
   * evidence of it has been made (backdated where the mode wants a duration). `guarded` is false in the counter-drill of
   * a guard that lives in what the fault does, and not in what `disarm` could take away.
   */
  inject(world: World, guarded: boolean): Promise<AsyncDisposable>
  /**
   * For an alert: takes the fault's cause away where that isn't part of the mitigation (the network comes back).
   * Called after detection, with and without mitigation; `fault` is what `inject` returned, and is disposed later still.
   */
  relent?(world: World, fault: AsyncDisposable): Promise<void>
  /** Removes the guard (a constraint, a check) for `--without-mitigation` of a guard. */
  disarm?(world: World): Promise<void>
  /** For a guard: what it refuses must be heard of, so the mode fires when it holds. */
  alarms?: true
  /** What was lost or doubled; empty when nothing was. A domain measure, asserted on at the end. */
  verify(world: World, fault: AsyncDisposable): Promise<string[]>
  /** Seconds until the mode must fire after injection, and until it must be quiet again after mitigation. */
  deadlineS?: { detect?: number; recover?: number }
  /** What the drill needs beyond the ordinary world. */
  needs?: { natsNodes?: 1 | 3; kms?: true; cluster?: true; clock?: true }
}

/** A row that has its detector, rule, runbook, mitigation and drill. */
export interface BuiltMode {
  id: ModeId
  /** `alert`: somebody must act. `guard`: the specification wants a refusal (409, 401, deduplication), not a page. */
  kind: 'alert' | 'guard'
  title: string
  severity: Severity
  state: 'built'
  detect: Detect
  mitigate: {
    /** The background worker that mends it. */
    worker?: string
    /** argv after `tabib`: exactly what the operator types, and what the drill runs. */
    command: string[]
  }
  drill: Drill
}

/** A row that is known and not built yet: shown as such, never as ok. */
export interface PlannedMode {
  id: ModeId
  kind: 'alert' | 'guard'
  title: string
  severity: Severity
  state: 'planned'
}

export type FailureMode = BuiltMode | PlannedMode

/** Types a card that is built; its file is `catalog/<service>/<id>-<slug>.ts`. */
export function failureMode(mode: Omit<BuiltMode, 'state'>): BuiltMode {
  return { ...mode, state: 'built' }
}

/** Types a card whose detector, runbook and drill do not exist yet. */
export function plannedMode(mode: Omit<PlannedMode, 'state'>): PlannedMode {
  return { ...mode, state: 'planned' }
}

/** Whether a reading means the failure is there; `unknown` when there is too little evidence. */
export function judge(detect: Pick<Detect, 'fires'>, reading: Reading): 'ok' | 'firing' | 'unknown' {
  const { value } = reading
  if (value === undefined || Number.isNaN(value)) return 'unknown'
  const { fires } = detect
  if ('above' in fires) return value > fires.above ? 'firing' : 'ok'
  if ('below' in fires) return value < fires.below ? 'firing' : 'ok'
  // The value of a climb is a rise; see `Fires`.
  return value > 0 ? 'firing' : 'ok'
}
