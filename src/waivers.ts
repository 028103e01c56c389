import { readFile } from 'node:fs/promises'
import { parse } from 'yaml'
import * as z from 'zod'
import { TabibError } from './errors.ts'
import type { Finding } from './finding.ts'
import type { FindingsReport, Rule } from './findings-report.ts'

/** A finding that somebody answers for, until a day. */
export interface Waiver {
  /** The finding's id: `isolation/rls-off`. */
  check: string
  /** The finding's object, word for word. */
  object: string
  owner: string
  reason: string
  /** The last day on which it holds, `2026-12-31`, in UTC. */
  expires: string
}

const text = z.string().trim().min(1)
const fileSchema = z.strictObject({
  waivers: z.array(
    z.strictObject({ check: text, object: text, owner: text, reason: text, expires: z.iso.date() }),
  ),
})

const RULES: readonly Rule[] = [
  { id: 'waiver/expired', category: 'waivers', title: 'no waiver has expired' },
  { id: 'waiver/unused', category: 'waivers', title: 'every waiver waives something' },
]

/**
 * Reads a waivers file: YAML, `waivers:` and a list of `{ check, object, owner, reason, expires }`.
 *
 * @throws TabibError CONFIG_INVALID with every problem and its place.
 */
export async function readWaivers(file: string): Promise<Waiver[]> {
  const problems: string[] = []
  try {
    const parsed = fileSchema.safeParse(parse(await readFile(file, 'utf8'), { merge: true }))
    if (parsed.success) return parsed.data.waivers
    problems.push(
      ...parsed.error.issues.map(({ path, message }) => `${path.join('.') || '(root)'}: ${message}`),
    )
  } catch (error) {
    problems.push((error as Error).message.split('\n')[0] ?? 'not readable as YAML')
  }
  throw new TabibError('CONFIG_INVALID', `${file} is no waivers file:\n  ${problems.join('\n  ')}`, {
    suggestions: [
      'waivers: [{ check: <id>, object: <object>, owner: <who>, reason: <why>, expires: 2026-12-31 }]',
    ],
    context: { file, problems },
  })
}

/**
 * Marks what is waived. An expired waiver waives nothing and is a finding itself; one that meets no finding of a rule
 * that ran is told as information, so that the file stays short.
 */
export function applyWaivers(
  report: FindingsReport,
  waivers: readonly Waiver[],
  { now = new Date() }: { now?: Date } = {},
): FindingsReport {
  const today = now.toISOString().slice(0, 10)
  const ran = new Set([...report.rules, ...report.findings].map(({ id }) => id))
  const mine = waivers.filter(({ check }) => ran.has(check))
  const covers = (finding: Finding) => (waiver: Waiver) =>
    waiver.check === finding.id && waiver.object === finding.object
  const holding = mine.filter(({ expires }) => expires >= today)
  const expired = mine.filter((waiver) => !holding.includes(waiver))
  const unused = holding.filter((waiver) => !report.findings.some((finding) => covers(finding)(waiver)))
  const about = (
    waiver: Waiver,
    id: string,
    severity: Finding['severity'],
    message: string,
    fix: string,
  ): Finding => ({
    id,
    check: report.check,
    severity,
    object: `${waiver.check} ${waiver.object}`,
    message,
    evidence: { owner: waiver.owner, expires: waiver.expires },
    fix,
    runbook: null,
    cacheKey: `${id}:${waiver.check}:${waiver.object}`,
    waived: false,
  })
  return {
    ...report,
    rules: [...report.rules, ...RULES],
    findings: [
      ...report.findings.map((finding) => {
        const waiver = holding.find(covers(finding))
        if (waiver === undefined) return finding
        const { owner, reason, expires } = waiver
        return { ...finding, waived: true, waiver: { owner, reason, expires } }
      }),
      ...expired.map((waiver) =>
        about(
          waiver,
          'waiver/expired',
          'error',
          `the waiver of ${waiver.owner} ended on ${waiver.expires}`,
          'mend what it waived, or have its owner set a new day',
        ),
      ),
      ...unused.map((waiver) =>
        about(
          waiver,
          'waiver/unused',
          'info',
          'nothing is found that it would waive',
          'delete it from the file',
        ),
      ),
    ],
  }
}
