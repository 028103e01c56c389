import type { DataClass, TableInventory } from './item.ts'

/** What a service's events say, by the paths in `outbox.data`, and what its callers' answers say. */
export interface Mail {
  events: Readonly<Record<string, DataClass>>
  answers: Readonly<Record<string, DataClass>>
}

/** The tables that every service has alike: outbox, inbox and answers by idempotency key. */
export function mailboxes(schema: string, { events, answers }: Mail): Record<string, TableInventory> {
  return {
    // Personal values travel sealed under their subject's key; ids end with the partition of their day.
    [`${schema}.outbox`]: {
      subjectKey: ['aggregate_id', 'subject_id'],
      none: [
        ...[
          'seq',
          'xid',
          'created_at',
          'id',
          'tenant_id',
          'aggregate_type',
          'type',
          'subject',
          'occurred_at',
        ],
      ],
      json: { data: events, headers: { '*': 'none' } },
      retention: 'P7D',
      erasure: { by: 'events', how: 'shred' },
    },
    [`${schema}.inbox`]: {
      subjectKey: ['aggregate_id'],
      none: ['consumer', 'event_id', 'tenant_id', 'aggregate_type', 'agg_seq', 'handled_at'],
      retention: 'P30D',
      erasure: { by: 'events', how: 'expire' },
    },
    // The key is the caller's own: it may say anything.
    [`${schema}.idempotency_key`]: {
      pseudonymous: ['key', 'fingerprint'],
      none: ['tenant_id', 'route', 'status', 'created_at'],
      json: { body: answers },
      retention: 'P1D',
      erasure: { by: 'cache', how: 'expire' },
    },
  }
}
