import type { Database } from '../../adapters/postgres/client.ts'
import type { Finding } from '../../finding.ts'
import type { Rule } from '../../findings-report.ts'
import { type ContentSystems, scanContent } from './content.ts'
import { IS_OVERDUE } from './list.ts'
import { type Stores, total } from './participant.ts'
import { PARTICIPANTS, type ParticipantId } from './participants.ts'
import { subjectOf } from './perform.ts'
import { findReturned } from './returned.ts'
import { residue } from './saga.ts'
import { shortName } from './secret.ts'

export interface Reconciliation {
  rules: readonly Rule[]
  findings: Finding[]
  facts: { requests: number; steps: number; acknowledged: number; held: number; reread: number }
}

const RUNBOOK = 'runbooks/communication/c15-erasure-partial.md'
const RULES: Rule[] = [
  {
    id: 'erasure/unacknowledged',
    category: 'saga',
    title: 'every participant has acknowledged every request, or is about to',
  },
  { id: 'erasure/residue', category: 'data', title: 'what was acknowledged is gone when it is read again' },
  { id: 'erasure/returned', category: 'data', title: 'nobody who was erased has come back' },
  {
    id: 'erasure/content',
    category: 'data',
    title: 'no text and no JSON says an identifier of somebody who was erased',
  },
  { id: 'erasure/deadline', category: 'law', title: 'every request is done within its legal deadline' },
  { id: 'erasure/held', category: 'law', title: 'no legal hold keeps data of a request' },
]

/**
 * requests × participants − acknowledgements, with every store read again, now: by this process and not by the word of
 * whoever acknowledged. Reads only.
 *
 * @throws TabibError REDIS_UNREACHABLE, ATTACHMENTS_UNREACHABLE: what cannot be read is not reconciled.
 */
export async function reconcileErasures(
  systems: Stores & ContentSystems,
  { tenantId, scan, signal }: { tenantId?: string | undefined; scan?: boolean; signal: AbortSignal },
): Promise<Reconciliation> {
  const { db } = systems
  const steps = await unfinishedSteps(db, tenantId)
  const secret = await systems.erasureSecret()
  const findings: Finding[] = []
  let reread = 0
  for (const step of steps) {
    signal.throwIfAborted()
    findings.push(...stepFindings(step))
    if (step.state !== 'done') continue
    const participant = PARTICIPANTS.find(({ id }) => id === step.participant)!
    const rows = await residue(systems, participant, subjectOf(secret, step, step))
    reread += 1
    if (total(rows) > 0) {
      const places = Object.entries(rows).filter(([, n]) => n > 0)
      const where = places.map(([place, n]) => `${place}: ${n}`).join(', ')
      findings.push(
        finding(step, 'residue', 'error', `${step.participant} acknowledged, and has again ${where}`, {
          rows: Object.fromEntries(places),
        }),
      )
    }
  }
  const underWay = new Set(steps.filter(({ open }) => open).map(({ hash }) => hash.toString('hex')))
  const returned = await findReturned({ db, secret }, { tenantId, signal })
  for (const { place, ...one } of returned) {
    if (underWay.has(one.hash.toString('hex'))) continue
    findings.push({
      ...finding(one, 'returned', 'error', `came back, in ${place}`, { place }),
      fix: 'tabib erasure replay --confirm erasures --reason "<why>"',
    })
  }
  if (scan) findings.push(...(await contentFindings(systems, { tenantId, signal })))
  const requests = new Set(steps.map(({ requestId }) => requestId)).size
  const acknowledged = steps.filter(({ state }) => state === 'done').length
  const held = steps.filter(({ state }) => state === 'held').length
  const rules = RULES.map((rule) =>
    rule.id === 'erasure/content' && !scan ? { ...rule, notRun: 'not run without --scan' } : rule,
  )
  return { rules, findings, facts: { requests, steps: steps.length, acknowledged, held, reread } }
}

async function contentFindings(
  systems: ContentSystems,
  options: { tenantId: string | undefined; signal: AbortSignal },
): Promise<Finding[]> {
  const { found, unread } = await scanContent(systems, options)
  const of = { check: 'erasure reconcile', fix: null, runbook: RUNBOOK, waived: false, id: 'erasure/content' }
  return [
    ...found.map(({ tenantId, subject, object, kind, count }) => ({
      ...{ ...of, severity: 'error' as const, object: `${subject} ${object}` },
      message: `${count} times ${object} says their ${kind}`,
      evidence: { tenantId, kind, count },
      cacheKey: `erasure/content:${subject} ${object} ${kind}`,
    })),
    ...unread.map(({ object, why }) => ({
      ...{ ...of, severity: 'warning' as const, object, message: `was not read: ${why}` },
      evidence: {},
      cacheKey: `erasure/content:${object}`,
    })),
  ]
}

interface UnfinishedStep {
  requestId: string
  tenantId: string
  participant: ParticipantId
  state: 'waiting' | 'sent' | 'held' | 'done'
  attempts: number
  lastError: string | null
  overdue: boolean
  /** The request has steps to do. */
  open: boolean
  beyond: boolean
  deadlineAt: Date
  sealed: Buffer
  hash: Buffer
}

function unfinishedSteps(db: Database, tenantId: string | undefined): Promise<UnfinishedStep[]> {
  return db.query<UnfinishedStep>(
    `select r.id as "requestId", r.tenant_id as "tenantId", s.participant, s.state, s.attempts,
       s.last_error as "lastError", ${IS_OVERDUE} as overdue, r.state = 'open' as open,
       r.deadline_at < clock_timestamp() as beyond, r.deadline_at as "deadlineAt", r.sealed, r.subject_hash as hash
     from tabib.erasure_request r join tabib.erasure_step s on s.request_id = r.id
     where r.state <> 'complete' and ($1::uuid is null or r.tenant_id = $1)
     order by r.requested_at, s.stage, s.participant`,
    [tenantId],
  )
}

function stepFindings(step: UnfinishedStep): Finding[] {
  const { participant, state, attempts, lastError } = step
  const findings: Finding[] = []
  if (state === 'waiting' || state === 'sent') {
    const failed = lastError === null ? '' : `, last with ${lastError}`
    const message = `${participant} has not acknowledged; attempts: ${attempts}${failed}`
    findings.push(
      finding(step, 'unacknowledged', step.overdue ? 'error' : 'info', message, { attempts, lastError }),
    )
  }
  if (state === 'held') {
    findings.push({
      ...finding(step, 'held', 'info', `a legal hold keeps what ${participant} has`),
      fix: null,
    })
  }
  if (step.beyond && state !== 'done') {
    const at = step.deadlineAt.toISOString()
    findings.push(
      finding(step, 'deadline', 'critical', `${participant} is not done, and the deadline was ${at}`),
    )
  }
  return findings
}

function finding(
  of: { tenantId: string; hash: Buffer; requestId?: string; participant?: string },
  rule: 'unacknowledged' | 'residue' | 'returned' | 'deadline' | 'held',
  severity: Finding['severity'],
  message: string,
  evidence: Record<string, unknown> = {},
): Finding {
  const { tenantId, hash, requestId, participant } = of
  const object = [shortName(hash), participant].filter(Boolean).join(' ')
  return {
    id: `erasure/${rule}`,
    check: 'erasure reconcile',
    severity,
    object,
    message,
    evidence: { tenantId, ...(requestId && { requestId }), ...evidence },
    fix:
      requestId === undefined
        ? null
        : `tabib erasure replay ${requestId} --confirm ${requestId} --reason "<why>"`,
    runbook: RUNBOOK,
    cacheKey: `erasure/${rule}:${object}`,
    waived: false,
  }
}
