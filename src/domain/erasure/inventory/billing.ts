import type { Inventory, Keeping } from './item.ts'
import { mailboxes } from './mailboxes.ts'

/** What was charged, paid and posted: the law keeps it, without saying whose it was. */
const BOOKS: Keeping = {
  retention: 'tenant:billing',
  hold: 'accounts and vouchers are kept as long as the law of the tenant says',
  erasure: { by: 'billing', how: 'pseudonymise' },
}

/** Statements that were sent say what the books say, with names: the books are kept, and these are not. */
const STATEMENTS: Keeping = {
  retention: 'tenant:billing',
  erasure: { by: 'statements', how: 'clear' },
}

const PRICES: Keeping = { retention: 'for-good' }

export const billing: Inventory = {
  file: 'src/domain/erasure/inventory/billing.ts',
  tables: {
    // A patient's own account is `receivable:<patient id>`.
    'billing.account': {
      subjectKey: ['code'],
      pseudonymous: ['id', 'opening_minor'],
      none: ['tenant_id', 'currency'],
      ...BOOKS,
    },
    'billing.balance': {
      pseudonymous: ['account_id', 'balance_minor', 'seq'],
      none: ['tenant_id', 'frozen_at', 'frozen_reason', 'frozen_incident'],
      ...BOOKS,
    },
    'billing.journal_transaction': {
      pseudonymous: ['id', 'business_key', 'reverses'],
      none: ['tenant_id', 'kind', 'incident_id', 'posted_at', 'xid'],
      ...BOOKS,
    },
    'billing.entry': {
      pseudonymous: ['account_id', 'seq', 'transaction_id', 'amount_minor', 'balance_minor', 'posted_at'],
      none: ['tenant_id', 'currency', 'xid'],
      ...BOOKS,
    },
    'billing.mended_fault': {
      pseudonymous: ['account_id', 'transaction_id', 'seq', 'of_transaction', 'expected', 'seen'],
      none: ['tenant_id', 'check_name', 'mended_at'],
      ...BOOKS,
    },
    'billing.statement_run': {
      none: [
        ...['tenant_id', 'id', 'period', 'time_zone', 'starts_at', 'ends_at', 'batch_size', 'xid'],
        ...['started_at', 'laid_out_at', 'finished_at'],
      ],
      retention: 'tenant:billing',
    },
    'billing.statement_batch': {
      none: ['tenant_id', 'run_id', 'n', 'state', 'queued_at', 'holder', 'expires_at', 'split_of'],
      retention: 'tenant:billing',
    },
    'billing.statement': {
      pseudonymous: ['account_id', 'n', 'sha256', 'pages', 'bytes', 'object_key', 'detail'],
      none: [
        ...[
          'tenant_id',
          'run_id',
          'batch',
          'state',
          'attempts',
          'failures',
          'began_at',
          'reason',
          'settled_at',
        ],
      ],
      ...STATEMENTS,
    },
    'billing.statement_renderer_death': {
      pseudonymous: ['account_id'],
      none: ['tenant_id', 'run_id', 'cause', 'rss_mib', 'died_at'],
      ...STATEMENTS,
    },
    'billing.charge': {
      subjectKey: ['patient_id'],
      pseudonymous: [
        ...['id', 'session_id', 'event_id', 'amount_minor', 'code', 'captured_at', 'account_id'],
        ...['transaction_id', 'idempotency_key', 'fingerprint'],
      ],
      none: ['tenant_id', 'currency'],
      ...BOOKS,
    },
    'billing.payment': {
      pseudonymous: [
        ...['id', 'account_id', 'amount_minor', 'method', 'reference', 'idempotency_key', 'fingerprint'],
        ...['transaction_id', 'paid_at'],
      ],
      none: ['tenant_id', 'currency'],
      ...BOOKS,
    },
    // Whoever asked for it and decided about it is staff.
    'billing.refund': {
      subjectKey: ['patient_id'],
      pseudonymous: ['id', 'charge_id', 'amount_minor', 'state', 'requested_at', 'decided_at', 'paid_at'],
      none: ['tenant_id', 'currency', 'requested_by', 'clinician', 'decided_by'],
      ...BOOKS,
    },
    'billing.refund_escalation': {
      pseudonymous: ['refund_id'],
      none: ['tenant_id', 'incident_id', 'escalated_at'],
      ...BOOKS,
    },
    'billing.payer': {
      subjectKey: ['patient_id'],
      personal: ['name', 'phone', 'email', 'address'],
      none: ['tenant_id'],
      retention: 'until-erased',
      erasure: { by: 'billing', how: 'delete' },
    },
    'billing.item': { none: ['tenant_id', 'code', 'sellable', 'tax_code'], ...PRICES },
    'billing.price_list': { none: ['tenant_id', 'id', 'name', 'currency', 'effective'], ...PRICES },
    'billing.price': { none: ['tenant_id', 'price_list_id', 'item_code', 'amount_minor'], ...PRICES },
    'billing.currency_refusal': { none: ['tenant_id', 'minute', 'n'], ...PRICES },
    'billing.price_refusal': { none: ['tenant_id', 'minute', 'item_code', 'n'], ...PRICES },
    ...mailboxes('billing', {
      events: {
        patientId: 'subject-key',
        chargeId: 'pseudonymous',
        sessionId: 'pseudonymous',
        amountMinor: 'pseudonymous',
        currency: 'none',
        code: 'pseudonymous',
        transactionId: 'pseudonymous',
        kind: 'none',
        'accountIds[]': 'pseudonymous',
        reverses: 'pseudonymous',
        incidentId: 'none',
        runId: 'none',
        accountId: 'pseudonymous',
        number: 'pseudonymous',
        manner: 'none',
        sha256: 'pseudonymous',
        pages: 'pseudonymous',
        objectKey: 'pseudonymous',
        rehearsal: 'none',
      },
      answers: {
        chargeId: 'pseudonymous',
        paymentId: 'pseudonymous',
        transactionId: 'pseudonymous',
        amountMinor: 'pseudonymous',
        currency: 'none',
        item: 'pseudonymous',
      },
    }),
  },
  streams: {
    'billing-evt': {
      class: 'subject-key',
      holds: 'events: ids, and personal values sealed under their subject’s key',
      retention: 'P30D',
      erasure: { by: 'events', how: 'shred' },
    },
    'billing-dlq': {
      class: 'subject-key',
      holds: 'copies of events that a consumer could not handle',
      retention: 'P90D',
      erasure: { by: 'events', how: 'shred' },
    },
  },
  caches: {
    'tabib:idempotency:billing:*': {
      class: 'pseudonymous',
      holds: 'copies of answers by idempotency key',
      retention: 'P1D',
      erasure: { by: 'cache', how: 'expire' },
    },
    'tabib:statement-*': {
      class: 'none',
      holds: 'ids of statement runs, and numbers of batches',
      retention: 'P1D',
    },
  },
  stores: {
    statements: {
      class: 'personal',
      holds: 'PDFs of statement runs: names, numbers, what was charged',
      retention: 'tenant:billing',
      erasure: { by: 'statements', how: 'delete' },
    },
  },
}
