import { Document } from 'yaml'
import { isDatabaseAway } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import type { Rule } from '../../findings-report.ts'
import {
  CATEGORIES,
  type Category,
  type Outcome,
  type Problem,
  type TenantCheck,
  type TenantProbe,
} from './check.ts'
import { tenantChecks } from './checks/index.ts'
import { fixText } from './fix.ts'
import type { DocumentProblem } from './parse.ts'
import { type Reach, tenantProbes } from './probes/index.ts'
import type { Tenant } from './tenant.ts'

/** A tenant to examine, from a file or from the database. */
export interface Subject {
  tenant: Tenant
  /** Its id in the database; absent for what is only in a file, which is examined without a reach. */
  id?: string
  /** Where what is stored breaks the schema. */
  problems?: Problem[]
  /** Where a part of its document stands. */
  locate?: (path: Problem['path']) => { file: string; line: number }
  /** The document as its author wrote it; a fix is written to fit in. */
  document?: Document
}

export interface Examination {
  rules: Rule[]
  findings: Finding[]
}

const DOCUMENT: Omit<TenantCheck, 'run'> = {
  id: 'tenant/document',
  category: 'operations',
  severity: 'critical',
  title: 'the document follows the schema',
}

/** What is wrong with files that describe no tenant, as findings at their lines. */
export function documentFindings(problems: readonly (DocumentProblem & { file: string })[]): Examination {
  const { id, category, title, severity } = DOCUMENT
  return {
    rules: [{ id, category, title }],
    findings: problems.map(({ file, line, path, message }) => ({
      id,
      check: 'tenant check',
      severity,
      object: path === '' ? file : `${file} ${path}`,
      message,
      evidence: {},
      fix: 'tabib schema tenant',
      runbook: null,
      cacheKey: `${id}:${file}:${path}`,
      waived: false,
      location: { file, line },
    })),
  }
}

const REGISTERED: Omit<TenantCheck, 'run'> = {
  id: 'tenant/registered',
  category: 'operations',
  severity: 'error',
  title: 'there is a tenant to check',
}

/**
 * Asks every check of the categories about every tenant, and the probes where there is something to reach them with.
 * Tells all that fails. A probe that was run for no tenant says why, and counts as neither passed nor failed.
 *
 * @param reach What the probes need; undefined offline.
 */
export async function examineTenants(
  subjects: readonly Subject[],
  {
    now,
    categories = CATEGORIES,
    reach,
  }: { now: Date; categories?: readonly Category[] | undefined; reach?: Reach | undefined },
): Promise<Examination> {
  if (subjects.length === 0) return nobody()
  const wanted = ({ category }: { category: Category }) => categories.includes(category)
  const probes = await Promise.all(
    tenantProbes.filter(wanted).map((probe) => runProbe(probe, subjects, reach)),
  )
  const findings = subjects.flatMap((subject) => [
    ...(wanted(DOCUMENT) ? (subject.problems ?? []) : []).map((one) => findingOf(DOCUMENT, subject, one)),
    ...tenantChecks
      .filter(wanted)
      .flatMap((check) => check.run(subject.tenant, now).map((one) => findingOf(check, subject, one))),
  ])
  return {
    rules: inOrder([...[DOCUMENT, ...tenantChecks].filter(wanted), ...probes.map(({ rule }) => rule)]),
    findings: [...findings, ...probes.flatMap((probe) => probe.findings)],
  }
}

/** Of no tenant nothing was seen to be in order: a database that is empty, or is another than was meant. */
function nobody(): Examination {
  const { id, category, title, severity } = REGISTERED
  return {
    rules: [{ id, category, title }],
    findings: [
      {
        id,
        check: 'tenant check',
        severity,
        object: 'the database',
        message: 'no tenant is registered, so nothing was checked',
        evidence: {},
        fix: 'tabib tenant apply --file tenant.yaml',
        runbook: null,
        cacheKey: id,
        waived: false,
      },
    ],
  }
}

async function runProbe(
  probe: TenantProbe<Reach>,
  subjects: readonly Subject[],
  reach: Reach | undefined,
): Promise<{ rule: Rule & { category: Category }; findings: Finding[] }> {
  const { id, category, title } = probe
  const rule = { id, category, title }
  if (reach === undefined) return { rule: { ...rule, notRun: 'not run offline' }, findings: [] }
  const tenants = subjects.map(({ id: tenantId = '', tenant }) => ({ id: tenantId, tenant }))
  const outcomes = await probe.run(reach, tenants).catch((error): Outcome[] => {
    // What a probe cannot reach must not keep the rest from being told. Without Postgres there is nothing to tell.
    if (!(error instanceof TabibError) || isDatabaseAway(error)) throw error
    const message = `could not be asked: ${error.message}`
    return tenants.map(() => ({ message, path: [], fix: error.suggestions[0] ?? null }))
  })
  const skipped = outcomes.filter((outcome) => outcome !== undefined && 'notRun' in outcome)
  if (skipped.length > 0 && skipped.length === outcomes.length) {
    return { rule: { ...rule, notRun: skipped[0]!.notRun }, findings: [] }
  }
  const findings = outcomes.flatMap((outcome, i) => {
    if (outcome === undefined) return []
    if ('notRun' in outcome) {
      const problem = { message: `not run: ${outcome.notRun}`, path: [], fix: null }
      return [findingOf({ ...probe, severity: 'info' }, subjects[i]!, problem)]
    }
    return [findingOf(probe, subjects[i]!, outcome)]
  })
  return { rule, findings }
}

function findingOf(
  check: Omit<TenantCheck, 'run'>,
  { tenant, locate, document = new Document({}) }: Subject,
  { message, path, about, evidence = {}, fix }: Problem,
): Finding {
  const place = (typeof fix === 'object' && fix?.at) || path
  const object = about === undefined ? tenant.slug : `${tenant.slug} ${about}`
  return {
    id: check.id,
    check: 'tenant check',
    severity: check.severity,
    object,
    message,
    evidence: place.length === 0 ? evidence : { path: place.join('.'), ...evidence },
    fix: fix === null ? null : fixText(fix, place, document),
    runbook: check.runbook ?? null,
    cacheKey: `${check.id}:${object}`,
    waived: false,
    ...(locate === undefined ? {} : { location: locate(path) }),
  }
}

function inOrder<R extends { category: Category }>(rules: R[]): R[] {
  return rules.sort((a, b) => CATEGORIES.indexOf(a.category) - CATEGORIES.indexOf(b.category))
}
