import type { Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

/** What `virtual-care.evt.appointment.scheduled` says. */
export interface AppointmentScheduled {
  id: string
  tenantId: string
  data: Record<string, unknown>
}

/**
 * Opens the virtual session of an appointment; an appointment has one, however many events announce it.
 * @throws TabibError USAGE when the event lacks its appointment's id.
 */
export async function scheduleSession(tx: Transaction, event: AppointmentScheduled): Promise<void> {
  const { appointmentId, patientId } = event.data
  if (typeof appointmentId !== 'string') {
    throw new TabibError('USAGE', 'the event has no data.appointmentId', { retryable: false })
  }
  await tx.query(
    `insert into communication.virtual_session (tenant_id, appointment_id, patient_id, event_id)
     values ($1, $2, $3, $4)
     on conflict do nothing`,
    [event.tenantId, appointmentId, typeof patientId === 'string' ? patientId : null, event.id],
  )
}
