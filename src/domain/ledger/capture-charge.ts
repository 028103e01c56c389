import type { Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

/** What `virtual-care.evt.session.ended` says. */
export interface SessionEnded {
  id: string
  tenantId: string
  data: Record<string, unknown>
}

/** A remote consultation, in minor units of each currency that clinics charge in (70 AFN to the dollar). */
const CONSULTATION = { code: 'CONSULT-REMOTE', amountMinor: { AFN: 50_000n, USD: 714n } } as const

/**
 * Charges the consultation of a session that ended, in its tenant's currency. That one event charges once is the
 * inbox's promise, not this function's: call it in the transaction that records the event there.
 * @throws TabibError USAGE when the event lacks its session or patient, NOT_FOUND when no price fits the tenant.
 */
export async function captureCharge(tx: Transaction, event: SessionEnded): Promise<void> {
  const { sessionId, patientId } = event.data
  if (typeof sessionId !== 'string' || typeof patientId !== 'string') {
    throw new TabibError('USAGE', 'the event has no data.sessionId or no data.patientId', {
      retryable: false,
    })
  }
  const { code, amountMinor } = CONSULTATION
  const charged = await tx.query(
    `insert into billing.charge (tenant_id, patient_id, session_id, event_id, amount_minor, currency, code)
     select tenant.id, $2, $3, $4, price.amount_minor::bigint, tenant.currency, $5
     from tabib.tenant join json_each_text($6) as price (currency, amount_minor) using (currency)
     where tenant.id = $1
     returning id`,
    [
      event.tenantId,
      patientId,
      sessionId,
      event.id,
      code,
      `{"AFN":${amountMinor.AFN},"USD":${amountMinor.USD}}`,
    ],
  )
  if (charged.length === 0) {
    throw new TabibError('NOT_FOUND', `there is no tenant ${event.tenantId} with a price for ${code}`)
  }
}
