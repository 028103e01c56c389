import * as z from 'zod'
import { certificateSchema } from './domain/erasure/certificate.ts'
import { statementSchema } from './domain/statements/statement.ts'
import { tenantSchema } from './domain/tenants/tenant.ts'
import { ERROR_CODES, type ErrorCode } from './errors.ts'

const nullableText = z.string().nullable()

const finding = z.looseObject({
  id: z.string(),
  check: z.string(),
  severity: z.enum(['critical', 'error', 'warning', 'info']),
  object: z.string(),
  message: z.string(),
  evidence: z.record(z.string(), z.unknown()),
  fix: nullableText,
  runbook: nullableText,
  cacheKey: nullableText,
  waived: z.boolean(),
})

const time = z.iso.datetime()

/**
 * The shapes that scripts may rely on (docs/cli.md, rule 5): fields are added, never removed or retyped, so a reader
 * must allow for fields it does not know. `tabib schema` prints them as JSON Schema.
 */
export const OUTPUT_SCHEMAS = {
  envelope: z
    .looseObject({
      schemaVersion: z.literal(1),
      runId: z.uuid(),
      status: z.enum(['ok', 'findings', 'partial']),
      result: z.unknown(),
      warnings: z.array(z.string()),
    })
    .describe('what --json prints when a command ran'),
  error: z
    .looseObject({
      schemaVersion: z.literal(1),
      runId: z.uuid(),
      status: z.literal('error'),
      error: z.looseObject({
        code: z.enum(Object.keys(ERROR_CODES) as [ErrorCode, ...ErrorCode[]]),
        message: z.string(),
        exitCode: z.int(),
        actions: z.array(z.string()),
        runbook: nullableText,
        retryable: z.boolean(),
        context: z.record(z.string(), z.unknown()),
      }),
    })
    .describe('what --json prints when a command failed'),
  finding: finding.describe('one element of result.findings, the same in every check'),
  findings: z.looseObject({ findings: z.array(finding) }).describe('result of every check'),
  incident: z
    .looseObject({
      id: z.uuid(),
      dedupeKey: z.string(),
      severity: z.enum(['page', 'ticket', 'info']),
      mode: z.string(),
      service: nullableText,
      title: z.string(),
      detail: z.record(z.string(), z.unknown()),
      runbook: nullableText,
      occurrences: z.int(),
      state: z.enum(['open', 'acked', 'resolved']),
      openedAt: time,
      lastSeenAt: time,
      ackedAt: time.nullable(),
      ackedBy: nullableText,
      resolvedAt: time.nullable(),
      resolvedBy: nullableText,
      resolution: nullableText,
      pagedAt: time.nullable(),
      pageAttempts: z.int(),
    })
    .describe('result of `incident show`, one element of `incident list`'),
  audit: z
    .looseObject({
      seq: z.string(),
      ts: time,
      prevHash: z.string(),
      hash: z.string(),
      runId: z.uuid(),
      actor: z.string(),
      actorProof: z.string().optional().describe('a JWS by the key that is registered for the actor'),
      context: z.string(),
      command: z.string(),
      argsRedacted: z.array(z.string()),
      targets: z.array(z.string()),
      phase: z.enum(['before', 'after']),
      version: z.string(),
      approver: z.string().optional(),
      planHash: z.string().optional(),
      reason: z.string().optional(),
      incident: z.string().optional(),
      failureMode: z.string().optional(),
      tenantCount: z.int().optional(),
      outcome: z.enum(['ok', 'failed']).optional(),
      exitCode: z.int().optional(),
      errorCode: z.string().optional(),
      durationMs: z.int().optional(),
    })
    .describe('one element of `audit list`'),
  certificate: certificateSchema
    .loose()
    .describe('what the certificate of an erasure says; one element of the result of `erasure verify`'),
  inventoryItem: z
    .looseObject({
      service: z.string(),
      kind: z.enum(['column', 'path', 'stream', 'cache', 'store']),
      object: z.string(),
      class: z.enum(['subject-key', 'personal', 'pseudonymous', 'none']),
      retention: z.string(),
      hold: z.string().optional(),
      erasure: z.looseObject({ by: z.string(), how: z.string() }).optional(),
    })
    .describe('one element of `erasure inventory`'),
  statementRun: z
    .looseObject({
      id: z.uuid(),
      tenant: z.string(),
      period: z.string(),
      state: z.enum(['waiting', 'running', 'finished']),
      accounts: z.int(),
      rendered: z.int(),
      basic: z.int(),
      failed: z.int(),
      pending: z.int(),
      deaths: z.int(),
      batches: z.int(),
      startedAt: time,
      finishedAt: time.nullable(),
      shortfalls: z
        .array(
          z.looseObject({
            accountId: z.uuid(),
            number: z.int(),
            state: z.enum(['basic', 'failed', 'pending']),
            attempts: z.int(),
            reason: z.string(),
            detail: nullableText,
          }),
        )
        .optional()
        .describe('accounts that failed, are tried again, or got a basic PDF; absent in lists'),
    })
    .describe('result of `statement run`, of `resume RUN` and `show RUN`; one element of `show`'),
  measurement: z
    .looseObject({
      bench: z.string(),
      case: z.string(),
      value: z.number(),
      unit: z.string(),
      against: nullableText,
      ratio: z.number().nullable(),
      target: nullableText,
      ok: z.boolean().nullable(),
    })
    .describe('one line of npm run bench -- NAME --json'),
} as const

/** The shapes of what people write: a name that is not known is refused there. */
export const DOCUMENT_SCHEMAS = {
  statement: statementSchema,
  tenant: tenantSchema,
} as const

/** A published shape as JSON Schema (draft 2020-12). */
export function jsonSchemaOf(name: keyof typeof OUTPUT_SCHEMAS | keyof typeof DOCUMENT_SCHEMAS): object {
  return z.toJSONSchema({ ...OUTPUT_SCHEMAS, ...DOCUMENT_SCHEMAS }[name], { io: 'input' })
}
