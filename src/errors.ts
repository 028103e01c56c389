/** The CLI's promise: every outcome has one exit code (docs/cli.md). */
export const EXIT = {
  ok: 0,
  findings: 1,
  usage: 2,
  unreachable: 3,
  unauthorised: 4,
  refused: 5,
  stalePlan: 6,
  partial: 7,
  timedOut: 8,
  bug: 70,
  interrupted: 130,
} as const

/**
 * Every error code with the exit code it ends a command with. A code is a promise to scripts: add, never rename.
 * `docs/errors.md` lists the same codes; a test holds the two together.
 */
export const ERROR_CODES = {
  USAGE: EXIT.usage,
  CONFIG_INVALID: EXIT.usage,
  NOT_FOUND: EXIT.usage,
  TENANT_INVALID: EXIT.usage,
  STATEMENT_INVALID: EXIT.usage,
  ACCOUNT_UNKNOWN: EXIT.usage,
  AMOUNT_INVALID: EXIT.usage,
  BALANCE_OVERFLOW: EXIT.usage,
  CURRENCY_MISMATCH: EXIT.usage,
  TRANSACTION_UNBALANCED: EXIT.usage,
  IDEMPOTENCY_KEY_MISSING: EXIT.usage,
  IDEMPOTENCY_KEY_INVALID: EXIT.usage,
  IDEMPOTENCY_KEY_REUSED: EXIT.usage,
  PRICE_NOT_FOUND: EXIT.usage,
  CURRENCY_NOT_SET: EXIT.usage,
  MESSAGE_INVALID: EXIT.usage,
  RECIPIENT_UNKNOWN: EXIT.usage,
  TEMPLATE_NOT_FOUND: EXIT.usage,
  POSTGRES_UNREACHABLE: EXIT.unreachable,
  POOL_EXHAUSTED: EXIT.unreachable,
  NOT_REPLICATED: EXIT.unreachable,
  PGBOUNCER_UNREACHABLE: EXIT.unreachable,
  NATS_UNREACHABLE: EXIT.unreachable,
  REDIS_UNREACHABLE: EXIT.unreachable,
  PAGER_UNREACHABLE: EXIT.unreachable,
  PROVIDER_UNREACHABLE: EXIT.unreachable,
  KEY_STORE_UNREACHABLE: EXIT.unreachable,
  KEYS_UNAVAILABLE: EXIT.unreachable,
  ATTACHMENTS_UNREACHABLE: EXIT.unreachable,
  STATEMENT_STORE_UNREACHABLE: EXIT.unreachable,
  RENDERER_FAILED: EXIT.unreachable,
  PATRONI_UNREACHABLE: EXIT.unreachable,
  ETCD_UNREACHABLE: EXIT.unreachable,
  PREFLIGHT_FULL: EXIT.unreachable,
  SERVER_MISSING: EXIT.unreachable,
  SERVER_FAILED: EXIT.unreachable,
  NOT_AUTHORISED: EXIT.unauthorised,
  APPROVAL_INVALID: EXIT.unauthorised,
  OPERATOR_UNPROVED: EXIT.unauthorised,
  TOKEN_INVALID: EXIT.unauthorised,
  TOKEN_EXPIRED: EXIT.unauthorised,
  MANIFEST_INVALID: EXIT.unauthorised,
  CERTIFICATE_INVALID: EXIT.unauthorised,
  ERASURE_ORDER_INVALID: EXIT.unauthorised,
  CONFIRMATION_REQUIRED: EXIT.refused,
  REASON_REQUIRED: EXIT.refused,
  APPROVAL_REQUIRED: EXIT.refused,
  EGRESS_REFUSED: EXIT.refused,
  PATIENT_DATA_REFUSED: EXIT.refused,
  CATEGORY_HALTED: EXIT.refused,
  RESIDENCY_REFUSED: EXIT.refused,
  TENANT_REFUSED: EXIT.refused,
  CLUSTER_REFUSED: EXIT.refused,
  SANDBOX_ONLY: EXIT.refused,
  NOT_NEEDED: EXIT.refused,
  LAST_OPERATOR: EXIT.refused,
  LOCKED: EXIT.refused,
  REQUEST_IN_PROGRESS: EXIT.refused,
  MIGRATION_REQUIRED: EXIT.refused,
  OUTBOX_RESTORED: EXIT.refused,
  ERASURES_MISSING: EXIT.refused,
  ERASURE_OPEN: EXIT.refused,
  OVERLAP_TOO_SHORT: EXIT.refused,
  KEY_ELSEWHERE: EXIT.refused,
  SESSION_ENDED: EXIT.refused,
  SUBJECT_ERASED: EXIT.refused,
  PERIOD_OPEN: EXIT.refused,
  ACCOUNT_FROZEN: EXIT.refused,
  LEDGER_DRIFT: EXIT.refused,
  BUSINESS_KEY_TAKEN: EXIT.refused,
  REVERSAL_REFUSED: EXIT.refused,
  PLAN_STALE: EXIT.stalePlan,
  PARTIAL: EXIT.partial,
  TIMED_OUT: EXIT.timedOut,
  BUG: EXIT.bug,
  INTERRUPTED: EXIT.interrupted,
} as const

export type ErrorCode = keyof typeof ERROR_CODES

export interface TabibErrorOptions {
  /** Commands that can be pasted as they stand, most useful first. */
  suggestions?: string[]
  /** The runbook's path from the package root. */
  ref?: string
  /** Whether the same call may succeed later without anything else changing. */
  retryable?: boolean
  /** Values for machines; never a secret or patient data. */
  context?: Record<string, unknown>
  cause?: unknown
}

/** Every expected failure of tabib: what happened, the value seen, what to paste next. */
export class TabibError extends Error {
  readonly code: ErrorCode
  readonly suggestions: string[]
  readonly ref: string | undefined
  readonly retryable: boolean
  readonly context: Record<string, unknown>

  constructor(code: ErrorCode, message: string, options: TabibErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'TabibError'
    this.code = code
    this.suggestions = options.suggestions ?? []
    this.ref = options.ref
    this.retryable = options.retryable ?? ERROR_CODES[code] === EXIT.unreachable
    this.context = options.context ?? {}
  }

  get exitCode(): number {
    return ERROR_CODES[this.code]
  }
}
