import type { Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { charge } from './charge.ts'

/** What `virtual-care.evt.session.ended` says. */
export interface SessionEnded {
  id: string
  tenantId: string
  data: Record<string, unknown>
}

/** The item that a remote consultation is charged as. */
const CONSULTATION = 'CONSULT-REMOTE'

/**
 * Charges the consultation of a session that ended, at its tenant's price, once for its event, for ever: the inbox forgets,
 * and the charge does not. Call it in the transaction that records the event there.
 *
 * @throws TabibError USAGE when the event lacks its session or patient, and what `charge` throws.
 */
export async function captureCharge(tx: Transaction, event: SessionEnded): Promise<void> {
  const { sessionId, patientId } = event.data
  if (typeof sessionId !== 'string' || typeof patientId !== 'string') {
    throw new TabibError('USAGE', 'the event has no data.sessionId or no data.patientId', {
      retryable: false,
    })
  }
  const { id: eventId, tenantId } = event
  await charge(tx, { tenantId, patientId, sessionId, code: CONSULTATION }, { eventId })
}
