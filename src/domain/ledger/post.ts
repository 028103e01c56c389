import type { Transaction } from '../../adapters/postgres/client.ts'
import { type ErrorCode, TabibError } from '../../errors.ts'

export interface NewEntry {
  accountId: string
  /** Minor units, debit positive, credit negative, never zero. */
  amountMinor: bigint
  /** ISO 4217: the account's own. */
  currency: string
}

export interface NewTransaction {
  tenantId: string
  /** `charge`, `payment`, `refund`, `reversal`, `adjustment` … */
  kind: string
  /** What makes it one for ever in its tenant: the CloudEvents id of a charge, a payment's key. */
  businessKey: string
  /** Two or more, which sum to zero in each currency. */
  entries: NewEntry[]
  /** The transaction that these entries undo: they are its own with the other sign. */
  reverses?: string | undefined
  /** The incident that it mends: posts on accounts which that one froze. For tabib's own role alone. */
  incidentId?: string | undefined
}

/**
 * Posts to the ledger by `billing.post`: entries, balances and the event `billing.evt.ledger.posted` commit with the
 * caller's transaction, in which `app.tenant_id` is the tenant's. Safe to repeat: what was posted under the business key
 * before is given back (`again`) and nothing is posted. Holds the accounts' balances locked until the commit, in the
 * order of their ids; post several in one transaction only where no two callers can meet in another order.
 * @throws TabibError, after which the caller's transaction can only be rolled back: ACCOUNT_UNKNOWN, ACCOUNT_FROZEN,
 * LEDGER_DRIFT (the account's
 * balance is not what its last entry says), CURRENCY_MISMATCH, AMOUNT_INVALID, TRANSACTION_UNBALANCED, BALANCE_OVERFLOW, BUSINESS_KEY_TAKEN (the key is of a
 * transaction with another content), REVERSAL_REFUSED, NOT_AUTHORISED (another tenant, or an incident posted by a
 * service), USAGE.
 */
export async function postTransaction(
  tx: Transaction,
  { tenantId, kind, businessKey, entries, reverses, incidentId }: NewTransaction,
): Promise<{ id: string; again: boolean }> {
  try {
    const [posted] = await tx.query<{ id: string; again: boolean }>(
      'select transaction_id as id, posted_before as again from billing.post($1, $2, $3, $4, $5, $6, $7, $8)',
      [
        tenantId,
        kind,
        businessKey,
        entries.map(({ accountId }) => accountId),
        entries.map(({ amountMinor }) => amountMinor),
        entries.map(({ currency }) => currency),
        reverses,
        incidentId,
      ],
      'ledger_post',
    )
    return posted!
  } catch (cause) {
    throw ledgerRefusal(cause)
  }
}

/** The states that billing.post raises. */
const REFUSALS: Record<string, ErrorCode> = {
  LG000: 'USAGE',
  LG001: 'ACCOUNT_UNKNOWN',
  LG002: 'ACCOUNT_FROZEN',
  LG003: 'CURRENCY_MISMATCH',
  LG004: 'AMOUNT_INVALID',
  LG005: 'TRANSACTION_UNBALANCED',
  LG006: 'BALANCE_OVERFLOW',
  LG007: 'BUSINESS_KEY_TAKEN',
  LG008: 'REVERSAL_REFUSED',
  LG009: 'NOT_AUTHORISED',
  LG010: 'LEDGER_DRIFT',
  LG011: 'NOT_NEEDED',
}

/** What the ledger's functions refused, as the error that is shown; anything else as it is. */
export function ledgerRefusal(cause: unknown): unknown {
  if (!(cause instanceof Error)) return cause
  const { code, detail } = cause as Error & { code?: string; detail?: string }
  const known = REFUSALS[code ?? '']
  if (known === undefined) return cause
  const stopped = known === 'ACCOUNT_FROZEN' || known === 'LEDGER_DRIFT'
  return new TabibError(known, cause.message, {
    cause,
    ...(stopped && {
      suggestions: [`tabib ledger verify --account ${detail}`, `tabib ledger reconcile ${detail} --dry-run`],
      ref: 'runbooks/billing/fm-07-ledger-drift.md',
    }),
  })
}
