import type { Inventory } from './item.ts'
import { mailboxes } from './mailboxes.ts'

export const virtualCare: Inventory = {
  file: 'src/domain/erasure/inventory/virtual-care.ts',
  tables: {
    'virtual_care.patient': {
      subjectKey: ['id'],
      personal: ['name', 'phone', 'email', 'national_id', 'address', 'born_on'],
      pseudonymous: ['language', 'created_at'],
      none: ['tenant_id'],
      retention: 'until-erased',
      erasure: { by: 'virtual-care', how: 'delete' },
    },
    'virtual_care.encounter_note': {
      subjectKey: ['patient_id'],
      personal: ['body'],
      pseudonymous: ['id', 'session_id', 'written_at'],
      none: ['tenant_id'],
      json: { data: { '**': 'personal' } },
      retention: 'tenant:clinical',
      erasure: { by: 'virtual-care', how: 'delete' },
    },
    'virtual_care.appointment': {
      subjectKey: ['patient_id'],
      pseudonymous: ['id', 'starts_at', 'status'],
      none: ['tenant_id'],
      retention: 'tenant:clinical',
      hold: 'what was treated, and when, is kept as long as the law of the tenant says',
      erasure: { by: 'virtual-care', how: 'pseudonymise' },
    },
    'virtual_care.session': {
      subjectKey: ['patient_id'],
      pseudonymous: ['id', 'appointment_id', 'status', 'started_at', 'ended_at'],
      none: ['tenant_id', 'version'],
      retention: 'tenant:clinical',
      hold: 'what was treated, and when, is kept as long as the law of the tenant says',
      erasure: { by: 'virtual-care', how: 'pseudonymise' },
    },
    'virtual_care.participant': {
      subjectKey: ['person_id'],
      pseudonymous: ['id', 'session_id', 'role', 'added_at'],
      none: ['tenant_id'],
      retention: 'tenant:clinical',
      hold: 'who took part in a treatment is kept as long as the treatment itself',
      erasure: { by: 'virtual-care', how: 'pseudonymise' },
    },
    'virtual_care.join_token': {
      pseudonymous: [
        ...['jti', 'session_id', 'participant_id', 'issued_at', 'expires_at', 'acceptances'],
        ...['first_accepted_at', 'last_accepted_at', 'revoked_at'],
      ],
      none: ['tenant_id', 'kid'],
      retention: 'P90D',
      erasure: { by: 'virtual-care', how: 'pseudonymise' },
    },
    ...mailboxes('virtual_care', {
      events: {
        patientId: 'subject-key',
        language: 'pseudonymous',
        // Sealed under the subject's key.
        'contact.enc': 'personal',
        appointmentId: 'pseudonymous',
        startsAt: 'pseudonymous',
        sessionId: 'pseudonymous',
        startedAt: 'pseudonymous',
        endedAt: 'pseudonymous',
        reason: 'none',
        kid: 'none',
        rehearsal: 'none',
      },
      answers: {
        token: 'pseudonymous',
        expiresAt: 'none',
        kid: 'none',
        sessionId: 'pseudonymous',
        participantId: 'pseudonymous',
        role: 'pseudonymous',
      },
    }),
  },
  streams: {
    'virtual-care-evt': {
      class: 'subject-key',
      holds: 'events: ids, and personal values sealed under their subject’s key',
      retention: 'P30D',
      erasure: { by: 'events', how: 'shred' },
    },
    'virtual-care-dlq': {
      class: 'subject-key',
      holds: 'copies of events that a consumer could not handle',
      retention: 'P90D',
      erasure: { by: 'events', how: 'shred' },
    },
  },
  caches: {},
  stores: {},
}
