import { styleText } from 'node:util'
import { TabibError } from './errors.ts'
import type { Finding } from './finding.ts'

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
  const { NO_COLOR, TERM, CI } = process.env
  const plain = !stream.isTTY || NO_COLOR || TERM === 'dumb' || CI
  return plain ? text : styleText(style, text)
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
  const widths = columns.map((name, i) => Math.max(width(name), ...cells.map((row) => width(row[i] ?? ''))))
  const toRight = columns.map((name) => rows.length > 0 && rows.every((row) => isNumeric(row[name])))
  const line = (values: readonly string[]) =>
    values
      .map((text, i) => {
        const padding = ' '.repeat((widths[i] ?? 0) - width(text))
        return toRight[i] ? padding + text : text + padding
      })
      .join('  ')
      .trimEnd()
  return [paint('bold', line(columns.map((name) => name.toUpperCase()))), ...cells.map(line)].join('\n')
}

/** One value a line, names to the left; what is absent is left out. */
export function details(values: Record<string, unknown>): string {
  const present = Object.entries(values).filter(([, value]) => value !== undefined && value !== null)
  const longest = Math.max(...present.map(([name]) => name.length))
  return present.map(([name, value]) => `${paint('bold', name.padEnd(longest))}  ${cell(value)}`).join('\n')
}

export const FINDING_FORMATS = ['table', 'json', 'junit', 'sarif', 'github', 'tap'] as const
export type FindingFormat = (typeof FINDING_FORMATS)[number]

/** Prints findings in any of the formats that people and CI read; an empty list is a passed check. */
export function renderFindings(
  findings: readonly Finding[],
  { format, check }: { format: FindingFormat; check: string },
): string {
  switch (format) {
    case 'table':
      return findingsAsText(findings)
    case 'json':
      return toJson(findings)
    case 'junit':
      return findingsAsJunit(findings, check)
    case 'sarif':
      return findingsAsSarif(findings)
    case 'github':
      return findingsAsGithub(findings)
    case 'tap':
      return findingsAsTap(findings, check)
  }
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
  { argv, runId }: { argv: readonly string[]; runId: string },
): void {
  const debug = hasFlag(argv, '--debug')
  if (!hasFlag(argv, '--json')) process.stderr.write(`${errorText(error, { debug })}\n`)
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

function cell(value: unknown): string {
  if (value === undefined || value === null || value === '') return '-'
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return value.join(', ')
  return typeof value === 'object' ? toJson(value, 0) : String(value)
}

const isNumeric = (value: unknown): boolean => typeof value === 'number' || typeof value === 'bigint'

// Combining marks take no column of their own; tables hold ids and words, so wide scripts need no table of widths.
const width = (text: string): number => [...text.replace(/\p{M}/gu, '')].length

function findingsAsText(findings: readonly Finding[]): string {
  return findings
    .flatMap((finding) => {
      const outcome =
        finding.waived || finding.severity === 'info' || finding.severity === 'warning' ? 'warning' : 'failed'
      const lines = [
        `${mark(outcome)} ${finding.object}: ${finding.message}${finding.waived ? ' (waived)' : ''}`,
      ]
      const evidence = Object.entries(finding.evidence).map(([name, value]) => `${name} ${cell(value)}`)
      if (evidence.length > 0) lines.push(`    ${evidence.join(', ')}`)
      if (finding.fix) lines.push(`    Try: ${finding.fix}`)
      if (finding.runbook) lines.push(`    Runbook: ${finding.runbook}`)
      return lines
    })
    .join('\n')
}

function findingsAsJunit(findings: readonly Finding[], check: string): string {
  const failed = findings.filter((finding) => !finding.waived)
  const cases = findings.map((finding) => {
    const name = xml(`${finding.id} ${finding.object}`)
    const body = finding.waived
      ? '<skipped message="waived"/>'
      : `<failure message="${xml(finding.message)}" type="${finding.severity}">${xml(finding.fix ?? '')}</failure>`
    return `    <testcase classname="${xml(finding.check)}" name="${name}">${body}</testcase>`
  })
  if (cases.length === 0) cases.push(`    <testcase classname="${xml(check)}" name="${xml(check)}"/>`)
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuites name="tabib" tests="${cases.length}" failures="${failed.length}">`,
    `  <testsuite name="${xml(check)}" tests="${cases.length}" failures="${failed.length}">`,
    ...cases,
    '  </testsuite>',
    '</testsuites>',
  ].join('\n')
}

function findingsAsSarif(findings: readonly Finding[]): string {
  const levels = { critical: 'error', error: 'error', warning: 'warning', info: 'note' } as const
  return toJson({
    $schema: 'https://json.schemastore.org/sarif-2.1.0.json',
    version: '2.1.0',
    runs: [
      {
        tool: {
          driver: {
            name: 'tabib',
            rules: [...new Set(findings.map((finding) => finding.id))].map((id) => ({ id })),
          },
        },
        results: findings.map((finding) => ({
          ruleId: finding.id,
          level: levels[finding.severity],
          message: { text: finding.fix ? `${finding.message}. ${finding.fix}` : finding.message },
          locations: [{ logicalLocations: [{ fullyQualifiedName: finding.object }] }],
          ...(finding.cacheKey ? { partialFingerprints: { tabib: finding.cacheKey } } : {}),
          ...(finding.waived ? { suppressions: [{ kind: 'external' }] } : {}),
        })),
      },
    ],
  })
}

function findingsAsGithub(findings: readonly Finding[]): string {
  const data = (text: string) => text.replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A')
  const property = (text: string) => data(text).replace(/:/g, '%3A').replace(/,/g, '%2C')
  return findings
    .map((finding) => {
      const quiet = finding.waived || finding.severity === 'info'
      const level = quiet ? 'notice' : finding.severity === 'warning' ? 'warning' : 'error'
      return `::${level} title=${property(finding.id)}::${data(`${finding.object}: ${finding.message}`)}`
    })
    .join('\n')
}

function findingsAsTap(findings: readonly Finding[], check: string): string {
  if (findings.length === 0) return `TAP version 13\n1..1\nok 1 - ${check}`
  const lines = findings.map((finding, i) => {
    const description = `${finding.id} ${finding.object}: ${finding.message}`
      .replace(/#/g, '\\#')
      .replace(/\s+/g, ' ')
    return finding.waived ? `ok ${i + 1} - ${description} # SKIP waived` : `not ok ${i + 1} - ${description}`
  })
  return ['TAP version 13', `1..${findings.length}`, ...lines].join('\n')
}

// XML 1.0 has no way to write most control characters.
function xml(text: string): string {
  return text
    .replace(/[^\P{Cc}\t\n\r]/gu, '')
    .replace(/[<>&"']/g, (character) => `&#${character.charCodeAt(0)};`)
}
