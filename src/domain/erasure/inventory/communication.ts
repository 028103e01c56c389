import type { Inventory } from './item.ts'
import { mailboxes } from './mailboxes.ts'

export const communication: Inventory = {
  file: 'src/domain/erasure/inventory/communication.ts',
  tables: {
    'communication.message': {
      subjectKey: ['patient_id'],
      personal: ['recipient'],
      pseudonymous: [
        ...['id', 'channel', 'template', 'status', 'sent_at', 'due_at', 'attempts', 'last_error'],
        ...['first_tried_at', 'expires_at'],
      ],
      none: ['tenant_id'],
      json: { variables: { '**': 'personal' } },
      retention: 'tenant:messages',
      hold: 'that a patient was told is kept as long as the treatment',
      erasure: { by: 'communication', how: 'pseudonymise' },
    },
    'communication.virtual_session': {
      subjectKey: ['patient_id'],
      pseudonymous: ['id', 'appointment_id', 'event_id', 'status', 'created_at'],
      none: ['tenant_id'],
      retention: 'tenant:clinical',
      hold: 'what was treated, and when, is kept as long as the law of the tenant says',
      erasure: { by: 'communication', how: 'pseudonymise' },
    },
    'communication.contact': {
      subjectKey: ['person_id'],
      personal: ['push_token'],
      pseudonymous: ['id'],
      none: ['tenant_id'],
      retention: 'until-erased',
      erasure: { by: 'communication', how: 'delete' },
    },
    'communication.thread': {
      subjectKey: ['patient_id'],
      pseudonymous: ['id', 'opened_at'],
      none: ['tenant_id'],
      retention: 'tenant:messages',
      erasure: { by: 'communication', how: 'pseudonymise' },
    },
    'communication.thread_message': {
      personal: ['body'],
      pseudonymous: ['id', 'thread_id', 'sender_id', 'sent_at'],
      none: ['tenant_id'],
      retention: 'tenant:messages',
      erasure: { by: 'communication', how: 'delete' },
    },
    // To whom and what goes; that there was an attempt stays.
    'communication.dispatch_log': {
      subjectKey: ['patient_id'],
      personal: ['recipient', 'response'],
      pseudonymous: ['id', 'message_id', 'channel', 'attempted_at'],
      none: ['tenant_id', 'provider', 'category', 'template', 'template_version', 'scanned_at'],
      json: { request: { '**': 'personal' } },
      retention: 'tenant:messages',
      erasure: { by: 'dispatch-log', how: 'clear' },
    },
    'communication.template': {
      none: [
        'id',
        'version',
        'channel',
        'category',
        'subject',
        'body',
        'state',
        'published_at',
        'published_by',
        'retired_at',
        'retired_for',
      ],
      json: { variables: { '**': 'none' } },
      retention: 'for-good',
    },
    // Where patient data was found, and of what kind: never whose. A place leads to an attempt that an erasure clears.
    'communication.phi_finding': {
      none: [
        'tenant_id',
        'id',
        'source',
        'place',
        'channel',
        'category',
        'template',
        'template_version',
        'found_at',
        'incident_id',
      ],
      json: { evidence: { '**': 'none' } },
      retention: 'for-good',
    },
    'communication.category_halt': {
      none: ['tenant_id', 'category', 'halted_at', 'resumed_at', 'resumed_by'],
      retention: 'for-good',
    },
    'communication.log_mark': {
      none: ['path', 'inode', 'read_to', 'read_at'],
      retention: 'for-good',
    },
    'communication.attachment': {
      subjectKey: ['patient_id', 'object_key'],
      personal: ['file_name'],
      pseudonymous: ['id', 'thread_id', 'content_type', 'uploaded_at'],
      none: ['tenant_id'],
      retention: 'tenant:messages',
      erasure: { by: 'attachments', how: 'delete' },
    },
    'communication.thread_participant': {
      pseudonymous: ['thread_id', 'contact_id', 'added_at'],
      none: ['tenant_id'],
      retention: 'tenant:messages',
      erasure: { by: 'communication', how: 'delete' },
    },
    'communication.participant_refusal': {
      pseudonymous: ['id', 'thread_id', 'contact_id', 'refused_at'],
      none: ['tenant_id'],
      retention: 'P90D',
      erasure: { by: 'communication', how: 'delete' },
    },
    ...mailboxes('communication', {
      events: {
        patientId: 'subject-key',
        messageId: 'pseudonymous',
        appointmentId: 'pseudonymous',
        channel: 'pseudonymous',
        template: 'pseudonymous',
        rehearsal: 'none',
      },
      answers: {},
    }),
  },
  streams: {
    'communication-evt': {
      class: 'subject-key',
      holds: 'events: ids, and personal values sealed under their subject’s key',
      retention: 'P30D',
      erasure: { by: 'events', how: 'shred' },
    },
    'communication-dlq': {
      class: 'subject-key',
      holds: 'copies of events that a consumer could not handle',
      retention: 'P90D',
      erasure: { by: 'events', how: 'shred' },
    },
  },
  caches: {
    'patient:*': {
      class: 'personal',
      holds: 'what a service shows of a patient, one hash each',
      retention: 'P1D',
      erasure: { by: 'cache', how: 'delete' },
    },
    '{phone,email}:*': {
      class: 'personal',
      holds: 'whose number or address it is',
      retention: 'P1D',
      erasure: { by: 'cache', how: 'delete' },
    },
    'tabib:idempotency:communication:*': {
      class: 'pseudonymous',
      holds: 'copies of answers by idempotency key',
      retention: 'P1D',
      erasure: { by: 'cache', how: 'expire' },
    },
  },
  stores: {
    'outbox preflight': {
      class: 'personal',
      holds: 'messages accepted while no database takes writes (`outbox.preflight`), until they are drained',
      retention: 'P1D',
    },
    attachments: {
      class: 'personal',
      holds: 'files sent in conversations, `<tenant>/<patient>/<name>` (`erasure.attachments`)',
      retention: 'tenant:messages',
      erasure: { by: 'attachments', how: 'delete' },
    },
  },
}
