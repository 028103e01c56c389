import { styleText } from 'node:util'
import { TabibError } from './errors.ts'

/** The one envelope that `--json` prints for a command that ran. */
export interface Envelope {
  schemaVersion: 1
  runId: string
  status: 'ok' | 'findings' | 'partial'
  result: unknown
  warnings: string[]
}

type Style = Parameters<typeof styleText>[0]

/** Styles text where the stream is a terminal that wants it: NO_COLOR, TERM=dumb, CI and pipes get plain text. */
export function paint(style: Style, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return isPlain(stream) ? text : styleText(style, text)
}

/** Whether a stream gets text alone: it is no terminal, or one that wants nothing else. */
export function isPlain(stream: NodeJS.WriteStream): boolean {
  const { NO_COLOR, TERM, CI } = process.env
  return !stream.isTTY || Boolean(NO_COLOR) || TERM === 'dumb' || Boolean(CI)
}

/** Marks of a check's line, as `linkerd check` prints them. */
export function mark(
  outcome: 'ok' | 'warning' | 'failed',
  stream: NodeJS.WriteStream = process.stdout,
): string {
  if (outcome === 'ok') return paint('green', '√', stream)
  return outcome === 'warning' ? paint('yellow', '‼', stream) : paint('red', '×', stream)
}

/**
 * Rows under upper-case headings, columns two spaces apart; numbers and bigints to the right. An absent value is `-`.
 * Returns one string without a final newline.
 */
export function table<R extends object>(rows: readonly R[], columns: readonly (keyof R & string)[]): string {
  const cells = rows.map((row) => columns.map((name) => cell(row[name])))
  const widths = columns.map((name, i) =>
    Math.max(width(heading(name)), ...cells.map((row) => width(row[i] ?? ''))),
  )
  const toRight = columns.map((name) => rows.length > 0 && rows.every((row) => isNumeric(row[name])))
  const line = (values: readonly string[]) =>
    values
      .map((text, i) => {
        const padding = ' '.repeat((widths[i] ?? 0) - width(text))
        return toRight[i] ? padding + text : text + padding
      })
      .join('  ')
      .trimEnd()
  return [paint('bold', line(columns.map(heading))), ...cells.map(line)].join('\n')
}

const heading = (name: string): string => name.replace(/([a-z])([A-Z])/g, '$1 $2').toUpperCase()

/** One value a line, names to the left; what is absent is left out. */
export function details(values: Record<string, unknown>): string {
  const present = Object.entries(values).filter(([, value]) => value !== undefined && value !== null)
  const longest = Math.max(...present.map(([name]) => name.length))
  return present.map(([name, value]) => `${paint('bold', name.padEnd(longest))}  ${cell(value)}`).join('\n')
}

/** A figure with its noun in the right number: `1 tenant`, `2 tenants`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`
}

/** JSON of a result: bigints become strings, since a number would round them. */
export function toJson(value: unknown, indent = 2): string {
  return JSON.stringify(value, (_, inner) => (typeof inner === 'bigint' ? inner.toString() : inner), indent)
}

/** Takes user and password out of every URL in a text. */
export function redactUrls(text: string): string {
  return text.replace(/(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi, '$1')
}

/** Whatever was thrown as the error that is shown; what nobody expected becomes BUG. */
export function asTabibError(error: unknown): TabibError {
  if (error instanceof TabibError) {
    // oclif writes its own words around what a flag's parser throws.
    error.message = withoutHelpHint(error.message)
    return error
  }
  if (isParseError(error)) {
    return new TabibError('USAGE', withoutHelpHint(error.message), {
      cause: error,
      suggestions: error.suggestions ?? [],
    })
  }
  const message = error instanceof Error ? error.message : String(error)
  return new TabibError('BUG', `an error that tabib did not expect: ${message}`, {
    cause: error,
    suggestions: ['run the same command with --debug and report what it prints'],
  })
}

/** The error envelope of `--json` (docs/cli.md, rule 5). */
export function errorEnvelope(error: TabibError, runId: string): object {
  return {
    schemaVersion: 1,
    runId,
    status: 'error',
    error: {
      code: error.code,
      message: redactUrls(error.message),
      exitCode: error.exitCode,
      actions: error.suggestions,
      runbook: error.ref ?? null,
      retryable: error.retryable,
      context: error.context,
    },
  }
}

/** What happened, what to paste next, the runbook; the stack only when asked for. */
export function errorText(error: TabibError, { debug }: { debug: boolean }): string {
  const lines = [`${mark('failed', process.stderr)} ${redactUrls(error.message)} (${error.code})`]
  error.suggestions.forEach((suggestion, i) => {
    lines.push(`  ${i === 0 ? 'Try:' : '    '} ${suggestion}`)
  })
  if (error.ref) lines.push(`  Runbook: ${error.ref}`)
  if (debug) lines.push('', redactUrls(stackOf(error)))
  return lines.join('\n')
}

/** Ends a failed run's output: the envelope on stdout with `--json`, else the text on stderr. */
export function reportError(
  error: TabibError,
  { argv, runId, json = hasFlag(argv, '--json') }: { argv: readonly string[]; runId: string; json?: boolean },
): void {
  const debug = hasFlag(argv, '--debug')
  if (!json) process.stderr.write(`${errorText(error, { debug })}\n`)
  else {
    process.stdout.write(`${toJson(errorEnvelope(error, runId))}\n`)
    if (debug) process.stderr.write(`${redactUrls(stackOf(error))}\n`)
  }
}

/** Whether a flag was given before any `--`; asked where flags could not be parsed. */
export function hasFlag(argv: readonly string[], flag: string): boolean {
  const end = argv.indexOf('--')
  return (end === -1 ? argv : argv.slice(0, end)).includes(flag)
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : ''
  return `${error.stack ?? error.message}${cause}`
}

// oclif's own errors carry the exit code that they would end with; a module that cannot be loaded is no mistake of the caller.
function isParseError(error: unknown): error is Error & { suggestions?: string[] } {
  return error instanceof Error && 'oclif' in error && error.name !== 'ModuleLoadError'
}

function withoutHelpHint(message: string): string {
  return message.replace(/\n?See more help with --help\s*$/, '').replace(/^Parsing (--\S+) \n\t/, '$1: ')
}

/** A value as one cell of a table; an absent one is `-`. */
export function cell(value: unknown): string {
  if (value === undefined || value === null || value === '') return '-'
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return value.join(', ')
  return typeof value === 'object' ? toJson(value, 0) : String(value)
}

const isNumeric = (value: unknown): boolean => typeof value === 'number' || typeof value === 'bigint'

// Combining marks take no column of their own; tables hold ids and words, so wide scripts need no table of widths.
const width = (text: string): number => [...text.replace(/\p{M}/gu, '')].length

/** A word as a POSIX shell reads it back, for a command that is printed to be pasted. */
export const quote = (word: string): string =>
  /^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
