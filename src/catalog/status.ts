import type { App } from '../app.ts'
import { TabibError } from '../errors.ts'
import { quote } from '../render.ts'
import { type BuiltMode, type Fires, judge, type Reading } from './failure-mode.ts'
import { runbookPath } from './runbook.ts'

/** One detector's answer. */
export interface ModeStatus {
  id: string
  kind: BuiltMode['kind']
  title: string
  severity: BuiltMode['severity']
  verdict: 'ok' | 'firing' | 'unknown'
  /** The figure that was judged; null when there was too little evidence. */
  value: number | null
  /** What the figure is held against: `> 30 s`. */
  threshold: string
  /** What was seen, or why nothing could be. */
  message: string
  evidence: Record<string, unknown>
  /** The command to type next. */
  next: string
  runbook: string | null
}

/**
 * Asks the detectors of the modes given, all at once, each within `timeoutMs`. A detector that cannot answer is
 * `unknown`, never ok. Reads only.
 *
 * @throws TabibError POSTGRES_UNREACHABLE, NOT_AUTHORISED, CONFIG_INVALID, MIGRATION_REQUIRED: Postgres is the truth,
 * and without it nothing can be judged.
 */
export async function readStatus(
  app: App,
  modes: readonly BuiltMode[],
  { timeoutMs = 5_000 }: { timeoutMs?: number } = {},
): Promise<ModeStatus[]> {
  const read = await Promise.allSettled(modes.map((mode) => readMode(app, mode, timeoutMs)))
  return read.map((one, i) => {
    if (one.status === 'fulfilled') return one.value
    // Where Postgres is a cluster, or writes may wait outside it, that it is gone is itself a mode, and judged.
    const expected = app.config.cluster !== undefined || app.config.outbox.preflight !== undefined
    const judged = expected && read.some(({ status }) => status === 'fulfilled')
    const { reason } = one
    if (!judged || reason.code !== 'POSTGRES_UNREACHABLE') throw reason
    return unknown(baseOf(modes[i]!), reason)
  })
}

/** A detector's reading, or the time-out's error; what it was doing then is left to end by itself. */
export async function readDetector(app: App, mode: BuiltMode, timeoutMs: number): Promise<Reading> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(
          new TabibError('TIMED_OUT', `the detector of ${mode.id} gave no answer within ${timeoutMs} ms`),
        ),
      timeoutMs,
    )
  })
  try {
    return await Promise.race([mode.detect.measure(app), late])
  } finally {
    clearTimeout(timer)
  }
}

/** The threshold as an operator reads it: `> 30 s`, `< 1`, `climbs over 60 s`. */
export function describeFires(fires: Fires): string {
  if ('climbs' in fires) return `climbs over ${fires.overS} s`
  const [sign, limit] = 'above' in fires ? ['>', fires.above] : ['<', fires.below]
  return `${sign} ${limit}${fires.unit ? ` ${fires.unit}` : ''}`
}

/** The mode's command as it is pasted into a shell. */
export function commandLine(mode: BuiltMode): string {
  return ['tabib', ...mode.mitigate.command].map(quote).join(' ')
}

async function readMode(app: App, mode: BuiltMode, timeoutMs: number): Promise<ModeStatus> {
  const { detect } = mode
  const base = baseOf(mode)
  try {
    const reading = await readDetector(app, mode, timeoutMs)
    const { value, evidence = {} } = reading
    const verdict = judge(detect, reading)
    const message = verdict === 'unknown' ? 'too little evidence yet' : detect.says(value ?? 0)
    return { ...base, verdict, value: value ?? null, message, evidence }
  } catch (error) {
    if (!(error instanceof TabibError) || FATAL.has(error.code)) throw error
    return unknown(base, error)
  }
}

const baseOf = (mode: BuiltMode) => ({
  id: mode.id,
  kind: mode.kind,
  title: mode.title,
  severity: mode.severity,
  threshold: describeFires(mode.detect.fires),
  next: commandLine(mode),
  runbook: runbookPath(mode.id) ?? null,
})

const unknown = (base: ReturnType<typeof baseOf>, error: TabibError): ModeStatus => ({
  ...base,
  verdict: 'unknown',
  value: null,
  message: error.message,
  evidence: { code: error.code },
  next: error.suggestions[0] ?? base.next,
})

const FATAL = new Set([
  'POSTGRES_UNREACHABLE',
  'NOT_AUTHORISED',
  'CONFIG_INVALID',
  'MIGRATION_REQUIRED',
  'BUG',
])
