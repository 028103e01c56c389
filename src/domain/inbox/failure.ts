import { createHash } from 'node:crypto'
import { TabibError } from '../../errors.ts'

/** What made a handler fail, in words that hold no value of the event. */
export interface Failure {
  /** The same for events that fail alike: 16 hex digits. */
  fingerprint: string
  detail: string
}

/**
 * Names a failure by its consumer, its error and where in our code it came from. Messages of foreign errors quote
 * values ("Key (phone)=(…) already exists"), so they are left out; those of TabibError hold none by rule.
 */
export function describeFailure(consumer: string, thrown: unknown): Failure {
  const error = thrown instanceof Error ? thrown : new Error('a value was thrown that is no error')
  const frames = ownFrames(error.stack ?? '')
  const kind = [error.name, ...databaseFields(error)].join(' ')
  const detail = error instanceof TabibError ? `${error.code}: ${error.message}` : kind
  const code = error instanceof TabibError ? error.code : kind
  return {
    fingerprint: fingerprintOf(consumer, code, ...frames.slice(0, 5)),
    detail: frames[0] === undefined ? detail : `${detail}, in ${frames[0]}`,
  }
}

/** The fingerprint of whatever these parts describe; parts must not hold values of an event. */
export function fingerprintOf(...parts: string[]): string {
  return createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 16)
}

// Function and file without line or column: the same fault keeps its fingerprint over unrelated changes of a file.
function ownFrames(stack: string): string[] {
  const frames: string[] = []
  for (const line of stack.split('\n')) {
    const place = /^\s+at (?:async )?(?:(.+?) \()?(?:file:\/\/)?((?:\/|[A-Za-z]:|node:).*?):\d+:\d+\)?$/.exec(
      line,
    )
    const [, name = '(anonymous)', file] = place ?? []
    if (file === undefined || file.startsWith('node:') || file.includes('/node_modules/')) continue
    frames.push(`${name} (${file.split(/[\\/]/).at(-1)})`)
  }
  return frames
}

// SQLSTATE and the names of schema objects say what happened; `detail` and `message` say with which values.
function databaseFields(error: Error): string[] {
  const { code, table, column, constraint } = error as unknown as Record<string, unknown>
  const fields: [string, unknown][] = [
    ['code', code],
    ['table', table],
    ['column', column],
    ['constraint', constraint],
  ]
  return fields.flatMap(([name, value]) =>
    typeof value === 'string' && /^[\w.]{1,64}$/.test(value) ? [`${name} ${value}`] : [],
  )
}
