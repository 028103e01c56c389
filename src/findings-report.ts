import type { Log, Result } from 'sarif'
import type { Finding } from './finding.ts'
import { cell, counted, mark, paint, toJson } from './render.ts'

/** One thing that a check looks at: a rule in SARIF, a line in a table, a test in JUnit and TAP. */
export interface Rule {
  /** What a finding carries as its `id`, and a waiver as its `check`. */
  id: string
  category: string
  /** What holds when it passes: "every tenant table has row-level security". */
  title: string
  /** Why it did not run: "not run offline". It has neither passed nor failed. */
  notRun?: string
}

/** What one run of a check found; every format is printed from it. */
export interface FindingsReport {
  /** The command: `isolation check`. */
  check: string
  /** What was examined: a database, a file, a tenant. */
  subject: string
  /** tabib's version. */
  version: string
  /** Every rule, in the order of printing; one that ran and has no finding has passed. */
  rules: readonly Rule[]
  findings: readonly Finding[]
  /** What else the run has to say: figures, how it was done. Beside `findings` in the envelope's result. */
  facts?: Record<string, unknown>
}

export const REPORT_FORMATS = ['table', 'json', 'junit', 'sarif', 'github', 'tap'] as const
export type ReportFormat = (typeof REPORT_FORMATS)[number]

/** Whether a finding fails its run, so that the command exits 1: critical or error, and not waived. */
export function fails({ severity, waived }: Finding): boolean {
  return !waived && (severity === 'critical' || severity === 'error')
}

/** What `--json` carries as its result. */
export function reportResult(report: FindingsReport): object {
  const { check, subject, version, findings, facts } = report
  const passed = passedRules(report).map(({ id }) => id)
  const notRun = report.rules.flatMap(({ id, notRun: reason }) => (reason ? [{ id, reason }] : []))
  return { check, subject, version, counts: countsOf(report), ...facts, passed, notRun, findings }
}

/** Prints a report in any of the formats that people and CI read, without a final newline. `short` is for a chat. */
export function renderReport(
  report: FindingsReport,
  { format, short = false }: { format: ReportFormat; short?: boolean | undefined },
): string {
  switch (format) {
    case 'table':
      return short ? asShort(report) : asTable(report)
    case 'json':
      return toJson(reportResult(report))
    case 'junit':
      return asJunit(report)
    case 'sarif':
      return toJson(asSarif(report))
    case 'github':
      return asGithub(report)
    case 'tap':
      return asTap(report)
  }
}

const RANK = { critical: 0, error: 1, warning: 2, info: 3 } as const

/** Every rule that ran or was found against, with its findings, the gravest first. */
function judgedRules({ rules, findings }: FindingsReport): { rule: Rule; found: Finding[] }[] {
  const known = new Set(rules.map(({ id }) => id))
  const others = [...new Set(findings.map(({ id }) => id))]
    .filter((id) => !known.has(id))
    .map((id) => ({ id, category: 'other', title: id }))
  const found = grouped(findings, ({ id }) => id)
  return [...rules, ...others].map((rule) => ({
    rule,
    found: (found.get(rule.id) ?? []).toSorted((a, b) => RANK[a.severity] - RANK[b.severity]),
  }))
}

function passedRules(report: FindingsReport): Rule[] {
  return judgedRules(report)
    .filter(hasPassed)
    .map(({ rule }) => rule)
}

const hasPassed = ({ rule, found }: { rule: Rule; found: Finding[] }): boolean =>
  found.length === 0 && rule.notRun === undefined

function countsOf(report: FindingsReport) {
  const { findings } = report
  const unwaived = (severity: Finding['severity']) =>
    findings.filter((one) => !one.waived && one.severity === severity).length
  return {
    failed: findings.filter(fails).length,
    warnings: unwaived('warning'),
    infos: unwaived('info'),
    waived: findings.filter(({ waived }) => waived).length,
    notRun: report.rules.filter(({ notRun }) => notRun).length,
    passed: passedRules(report).length,
  }
}

function summary(report: FindingsReport): string {
  const { failed, warnings, infos, waived, notRun, passed } = countsOf(report)
  return [
    ...(failed > 0 ? [`${failed} failed`] : []),
    ...(warnings > 0 ? [counted(warnings, 'warning')] : []),
    ...(infos > 0 ? [counted(infos, 'info')] : []),
    ...(waived > 0 ? [`${waived} waived`] : []),
    ...(notRun > 0 ? [`${notRun} not run`] : []),
    `${counted(passed, 'check')} passed`,
  ].join(', ')
}

function outcomeOf(findings: readonly Finding[]): 'ok' | 'warning' | 'failed' {
  if (findings.some(fails)) return 'failed'
  return findings.length > 0 ? 'warning' : 'ok'
}

// The style of `linkerd check`, with one line for what passed in a category: little on success, more on failure.
function asTable(report: FindingsReport): string {
  const categories = grouped(judgedRules(report), ({ rule }) => rule.category)
  const blocks = [...categories].map(([category, judged]) => {
    const passed = judged.filter(hasPassed).length
    const all = passed === judged.length
    const checks = counted(passed, all ? 'check' : 'other check')
    if (all) return `${mark('ok')} ${category}: ${checks}`
    return [
      '',
      paint('bold', category),
      '-'.repeat(category.length),
      ...judged.filter((one) => !hasPassed(one)).flatMap(ruleLines),
      ...(passed > 0 ? [`${mark('ok')} ${checks}`] : []),
      '',
    ].join('\n')
  })
  const facts = Object.entries(report.facts ?? {}).map(([name, value]) => `  ${name} ${cell(value)}`)
  const end = `${mark(outcomeOf(report.findings))} ${report.check} ${report.subject}: ${summary(report)}`
  return [blocks.join('\n').replace(/\n{3,}/g, '\n\n'), '', end, ...facts].join('\n').trim()
}

function ruleLines({ rule, found }: { rule: Rule; found: Finding[] }): string[] {
  if (rule.notRun) return [`- ${rule.title} ${paint('dim', `(${rule.id})`)}: ${rule.notRun}`]
  return [`${mark(outcomeOf(found))} ${rule.title} ${paint('dim', `(${rule.id})`)}`].concat(
    found.flatMap((finding) => {
      const evidence = Object.entries(finding.evidence).map(([name, value]) => `${name} ${cell(value)}`)
      return [
        `    ${mark(outcomeOf([finding]))} ${finding.object}: ${finding.message}${waiverNote(finding)}`,
        ...(evidence.length > 0 ? [`        ${evidence.join(', ')}`] : []),
        ...(finding.fix ? [`        Try: ${finding.fix.replaceAll('\n', '\n             ')}`] : []),
        ...(finding.runbook ? [`        Runbook: ${finding.runbook}`] : []),
      ]
    }),
  )
}

function waiverNote({ waived, waiver }: Finding): string {
  if (!waived) return ''
  return waiver ? ` (waived by ${waiver.owner} until ${waiver.expires}: ${waiver.reason})` : ' (waived)'
}

function asShort(report: FindingsReport): string {
  const shown = judgedRules(report)
    .flatMap(({ found }) => found)
    .filter(({ waived, severity }) => !waived && severity !== 'info')
  return [
    `${mark(outcomeOf(shown))} ${report.check} ${report.subject}: ${summary(report)}`,
    ...shown.map((one) => `${mark(outcomeOf([one]))} ${one.id} ${one.object}: ${oneLine(one.message)}`),
  ].join('\n')
}

function asJunit(report: FindingsReport): string {
  const categories = grouped(judgedRules(report), ({ rule }) => rule.category)
  const suites = [...categories].map(([category, judged]) => {
    const cases = judged.flatMap(({ rule, found }) => {
      if (found.length === 0) return [testcase(rule, rule.title)]
      return found.map((finding) => testcase(rule, `${rule.title}: ${finding.object}`, finding))
    })
    const found = judged.flatMap((one) => one.found)
    const waived = found.filter((one) => one.waived).length
    const [failed, skipped] = [
      found.filter(fails).length,
      waived + judged.filter(({ rule }) => rule.notRun).length,
    ]
    return { name: `${report.check} ${category}`, cases, failed, skipped }
  })
  const sum = (of: (suite: (typeof suites)[number]) => number) =>
    suites.reduce((total, suite) => total + of(suite), 0)
  const failures = sum(({ failed }) => failed)
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuites name="tabib ${xml(report.check)}" tests="${sum(({ cases }) => cases.length)}" failures="${failures}" errors="0">`,
    ...suites.flatMap(({ name, cases, failed, skipped }) => [
      `  <testsuite name="${xml(name)}" tests="${cases.length}" failures="${failed}" errors="0" skipped="${skipped}">`,
      '    <properties>',
      `      <property name="subject" value="${xml(report.subject)}"/>`,
      `      <property name="version" value="${xml(report.version)}"/>`,
      '    </properties>',
      ...cases,
      '  </testsuite>',
    ]),
    '</testsuites>',
  ].join('\n')
}

// JUnit knows no warning: it is a passed test that says something.
function testcase(rule: Rule, name: string, finding?: Finding): string {
  const open = `    <testcase classname="${xml(rule.id)}" name="${xml(name)}" time="0"`
  if (finding === undefined) {
    return rule.notRun ? `${open}><skipped message="${xml(rule.notRun)}"/></testcase>` : `${open}/>`
  }
  const text = xml([finding.message, finding.fix].filter(Boolean).join('\n'))
  const body = finding.waived
    ? `<skipped message="${xml(`${finding.message}${waiverNote(finding)}`)}"/>`
    : fails(finding)
      ? `<failure message="${xml(finding.message)}" type="${finding.severity}">${text}</failure>`
      : `<system-out>${finding.severity}: ${text}</system-out>`
  return `${open}>${body}</testcase>`
}

function asSarif(report: FindingsReport): Log {
  const judged = judgedRules(report)
  const ruleIndex = new Map(judged.map(({ rule }, i) => [rule.id, i]))
  return {
    $schema: 'https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json',
    version: '2.1.0',
    runs: [
      {
        tool: {
          driver: {
            name: 'tabib',
            version: report.version,
            rules: judged.map(({ rule, found }) => ({
              id: rule.id,
              shortDescription: { text: rule.title },
              properties: { tags: [rule.category], ...(rule.notRun ? { notRun: rule.notRun } : {}) },
              ...(found[0]?.runbook ? { help: { text: `Runbook: ${found[0].runbook}` } } : {}),
            })),
          },
        },
        automationDetails: { id: `tabib ${report.check}/${report.subject}/` },
        results: judged.flatMap(({ found }) =>
          found.map((finding) => sarifResult(finding, ruleIndex.get(finding.id) ?? -1)),
        ),
      },
    ],
  }
}

function sarifResult(finding: Finding, ruleIndex: number): Result {
  const levels = { critical: 'error', error: 'error', warning: 'warning', info: 'note' } as const
  const { location, waiver } = finding
  return {
    ruleId: finding.id,
    ruleIndex,
    level: levels[finding.severity],
    message: { text: [`${finding.object}: ${finding.message}`, finding.fix].filter(Boolean).join('\n') },
    locations: [
      {
        // Code scanning drops a result without an artifact, so what lives in no file stands under its own name.
        physicalLocation: {
          artifactLocation: {
            uri: (location?.file ?? finding.object).split('/').map(encodeURIComponent).join('/'),
          },
          region: { startLine: location?.line ?? 1 },
        },
        logicalLocations: [{ fullyQualifiedName: finding.object }],
      },
    ],
    // Where it was seen moves; what was seen does not.
    partialFingerprints: { 'tabib/v1': finding.cacheKey ?? `${finding.id}:${finding.object}` },
    ...(finding.waived
      ? { suppressions: [{ kind: 'external' as const, ...(waiver ? { justification: waiver.reason } : {}) }] }
      : {}),
  }
}

function asGithub(report: FindingsReport): string {
  const data = (text: string) => text.replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A')
  const property = (text: string) => data(text).replace(/:/g, '%3A').replace(/,/g, '%2C')
  const lines = judgedRules(report).flatMap(({ found }) =>
    found.map((finding) => {
      const level = fails(finding)
        ? 'error'
        : finding.waived || finding.severity === 'info'
          ? 'notice'
          : 'warning'
      const { file, line } = finding.location ?? {}
      const place = file === undefined ? '' : `file=${property(file)},line=${line ?? 1},`
      const text = [`${finding.object}: ${finding.message}${waiverNote(finding)}`, finding.fix]
      return `::${level} ${place}title=${property(finding.id)}::${data(text.filter(Boolean).join('\n'))}`
    }),
  )
  return [...lines, oneLine(`${report.check} ${report.subject}: ${summary(report)}`)].join('\n')
}

// Version 14: what does not fail the run is a TODO, what is waived a SKIP.
function asTap(report: FindingsReport): string {
  const lines = judgedRules(report).flatMap(({ rule, found }) => {
    if (found.length === 0) {
      const skip = rule.notRun ? ` # SKIP ${tap(rule.notRun)}` : ''
      return [(n: number) => `ok ${n} - ${tap(`${rule.id} ${rule.title}`)}${skip}`]
    }
    return found.map((finding) => (n: number) => {
      const result = finding.waived ? 'ok' : 'not ok'
      const directive = finding.waived
        ? ` # SKIP waived${finding.waiver ? ` by ${tap(finding.waiver.owner)}` : ''}`
        : fails(finding)
          ? ''
          : ` # TODO ${finding.severity}`
      const { severity, fix, runbook, evidence } = finding
      // A JSON value is a YAML value.
      const diagnostics = Object.entries({ severity, fix, runbook, evidence })
        .filter(([, value]) => value !== null)
        .map(([name, value]) => `  ${name}: ${toJson(value, 0)}`)
      return [
        `${result} ${n} - ${tap(`${finding.id} ${finding.object}: ${finding.message}`)}${directive}`,
        '  ---',
        ...diagnostics,
        '  ...',
      ].join('\n')
    })
  })
  return ['TAP version 14', `1..${lines.length}`, ...lines.map((line, i) => line(i + 1))].join('\n')
}

function grouped<K, V>(values: readonly V[], keyOf: (value: V) => K): Map<K, V[]> {
  const groups = new Map<K, V[]>()
  for (const value of values) {
    const key = keyOf(value)
    groups.set(key, [...(groups.get(key) ?? []), value])
  }
  return groups
}

const tap = (text: string): string => oneLine(text).replace(/[\\#]/g, '\\$&')

const oneLine = (text: string): string => text.replace(/\s+/g, ' ')

// XML 1.0 has no way to write most control characters; a line break in an attribute would be read as a space.
function xml(text: string): string {
  return text
    .toWellFormed()
    .replace(/[\uFFFE\uFFFF]|[^\P{Cc}\t\n\r]/gu, '')
    .replace(/[<>&"'\n\r\t]/g, (character) => `&#${character.charCodeAt(0)};`)
}
