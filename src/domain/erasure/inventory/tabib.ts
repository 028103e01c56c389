import type { Inventory, Keeping } from './item.ts'

/** How tabib itself works: nothing of patients. */
const OWN: Keeping = { retention: 'for-good' }
const OWN_MONTHS: Keeping = { retention: 'P90D' }

/** Kept, so that nobody who was erased comes back unseen. */
const ERASURES: Keeping = {
  retention: 'for-good',
  hold: 'evidence that an erasure was asked for and done (GDPR article 5(2))',
}

export const tabib: Inventory = {
  file: 'src/domain/erasure/inventory/tabib.ts',
  tables: {
    // An event that could not be published or handled, as it was: it may hold what no event should.
    'tabib.quarantine': {
      subjectKey: ['aggregate_id'],
      personal: ['payload', 'detail'],
      none: [
        ...['id', 'service', 'origin', 'consumer', 'event_id', 'seq', 'stream', 'stream_seq', 'tenant_id'],
        ...['aggregate_type', 'type', 'subject', 'occurred_at', 'reason', 'attempts', 'fingerprint', 'state'],
        ...['redrives', 'redrive_run', 'dead_lettered_at', 'quarantined_at', 'resolved_at', 'resolved_by'],
      ],
      json: { headers: { '*': 'subject-key' }, redacted: { '**': 'subject-key' } },
      retention: 'until-erased',
      erasure: { by: 'events', how: 'delete' },
    },
    // Ids and figures, whatever the mode; no name, number or text of a patient.
    'tabib.incident': {
      pseudonymous: ['dedupe_key'],
      none: [
        ...['id', 'severity', 'mode', 'service', 'title', 'runbook', 'occurrences', 'state', 'opened_at'],
        ...['last_seen_at', 'acked_at', 'acked_by', 'resolved_at', 'resolved_by', 'resolution', 'paged_at'],
        ...['page_attempts', 'next_page_at', 'resolution_sent_at'],
      ],
      json: { detail: { '**': 'pseudonymous' } },
      retention: 'tenant:audit',
      hold: 'evidence of what failed and who answered',
    },
    // Chained by hashes: nothing in it can be changed, so nothing personal may come in (`reason` is what staff typed).
    'tabib.audit': {
      none: ['seq', 'ts', 'run_id', 'prev_hash', 'hash'],
      json: {
        record: {
          seq: 'none',
          ts: 'none',
          runId: 'none',
          actor: 'none',
          actorProof: 'none',
          approver: 'none',
          approval: 'none',
          context: 'none',
          command: 'none',
          'argsRedacted[]': 'pseudonymous',
          planHash: 'none',
          reason: 'pseudonymous',
          incident: 'none',
          failureMode: 'none',
          'targets[]': 'pseudonymous',
          tenantCount: 'none',
          phase: 'none',
          outcome: 'none',
          exitCode: 'none',
          errorCode: 'none',
          durationMs: 'none',
          'journal.record': 'none',
          'journal.at': 'none',
          version: 'none',
        },
      },
      retention: 'tenant:audit',
      hold: 'evidence of who changed what',
    },
    // Subjects by keyed hash alone; `sealed` is what the saga works with, and destroyed with its end.
    'tabib.erasure_request': {
      subjectKey: ['sealed'],
      pseudonymous: ['subject_hash'],
      none: [
        ...[
          'id',
          'tenant_id',
          'requested_at',
          'deadline_at',
          'authority',
          'order_jti',
          'order_digest',
          'follows',
        ],
        ...['state', 'watch_until', 'completed_at'],
      ],
      ...ERASURES,
    },
    'tabib.erasure_step': {
      none: [
        ...[
          'request_id',
          'participant',
          'tenant_id',
          'stage',
          'state',
          'round',
          'attempts',
          'next_attempt_at',
        ],
        ...['sent_at', 'last_error', 'exhausted_at', 'reread_at', 'reread_found', 'second_reread_at'],
        ...['second_reread_found'],
      ],
      json: { planned: { '*': 'none' } },
      ...ERASURES,
    },
    'tabib.erasure_ack': {
      none: [
        ...['request_id', 'participant', 'round', 'tenant_id', 'rows_affected', 'position', 'instance'],
        ...['acked_at'],
      ],
      json: { detail: { '*': 'none' } },
      ...ERASURES,
    },
    'tabib.erasure_subject': {
      pseudonymous: ['subject_hash'],
      none: ['tenant_id', 'request_id', 'recorded_at'],
      ...ERASURES,
    },
    'tabib.erasure_fingerprint': {
      pseudonymous: ['subject_hash', 'fingerprint'],
      none: ['tenant_id', 'kind'],
      ...ERASURES,
    },
    'tabib.erasure_hold': {
      pseudonymous: ['subject_hash'],
      none: [
        ...[
          'id',
          'tenant_id',
          'participants',
          'authority',
          'placed_by',
          'placed_at',
          'released_by',
          'released_at',
        ],
      ],
      ...ERASURES,
    },
    'tabib.erasure_memory': { none: ['kind', 'ref', 'seq'], ...ERASURES },
    'tabib.erasure_mark': {
      none: [
        ...[
          'only_one',
          'seq',
          'stream_created',
          'system_identifier',
          'database_oid',
          'timeline',
          'reapplying',
        ],
      ],
      ...ERASURES,
    },
    'tabib.subject_key': {
      subjectKey: ['wrapped'],
      pseudonymous: ['subject_hash'],
      none: ['tenant_id', 'created_at', 'destroyed_at'],
      retention: 'until-erased',
      erasure: { by: 'events', how: 'shred' },
    },
    'tabib.operation_lock': {
      pseudonymous: ['target'],
      none: ['run_id', 'actor', 'command', 'taken_at', 'expires_at'],
      retention: 'PT30S',
    },
    'tabib.approval_use': {
      none: ['jti', 'plan_hash', 'approver', 'actor', 'run_id', 'used_at'],
      ...OWN,
    },
    'tabib.operator': {
      none: ['name', 'kid', 'added_by', 'added_at', 'removed_at', 'removed_by'],
      json: { public_jwk: { '*': 'none' } },
      ...OWN,
    },
    'tabib.tenant': {
      none: ['id', 'slug', 'name', 'region', 'currency', 'created_at', 'status'],
      ...OWN,
    },
    'tabib.tenant_region': { none: ['tenant_id', 'region'], ...OWN },
    // A tenant's own document: its staff, never its patients.
    'tabib.tenant_profile': {
      none: ['tenant_id', 'updated_at'],
      json: {
        document: {
          'locales[]': 'none',
          timeZone: 'none',
          'tax.**': 'none',
          'payment.**': 'none',
          'refunds.**': 'none',
          'residency.**': 'none',
          'keys.**': 'none',
          'privacy.**': 'none',
          'identity.**': 'none',
          'messaging.**': 'none',
          'quotas.**': 'none',
          'onCall.**': 'none',
        },
      },
      ...OWN,
    },
    'tabib.signing_key': {
      none: [
        ...[
          'kid',
          'purpose',
          'algorithm',
          'ref',
          'probe',
          'phase',
          'since',
          'published_at',
          'barred',
          'overlap_s',
        ],
        ...['cache_age_s', 'skew_s', 'token_lifetime_s', 'all_attest', 'destroyed_at', 'store', 'revocation'],
      ],
      json: { public_jwk: { '*': 'none' } },
      ...OWN,
    },
    'tabib.signing_key_phase': { none: ['seq', 'kid', 'phase', 'entered_at', 'entered_by'], ...OWN },
    'tabib.key_revocation': {
      none: ['kid', 'purpose', 'reason', 'revoked_by', 'run_id', 'revoked_at'],
      ...OWN,
    },
    'tabib.verifier': {
      none: ['purpose', 'instance', 'jwks_hash', 'attested_at', 'stopped_at', 'accepted', 'run'],
      json: { refused: { '*': 'none' }, unknown_keys: { '*': 'none' } },
      ...OWN_MONTHS,
    },
    'tabib.verifier_count': { none: ['purpose', 'instance', 'minute', 'kid', 'n'], ...OWN_MONTHS },
    'tabib.join_token_count': { none: ['minute', 'outcome', 'kid', 'n'], ...OWN_MONTHS },
    'tabib.outbox_lease': {
      none: ['service', 'holder', 'epoch', 'expires_at', 'released', 'taken_at'],
      ...OWN,
    },
    'tabib.outbox_progress': {
      none: [
        ...['service', 'epoch', 'n', 'done', 'target', 'after_seq', 'stream_seq', 'system_identifier'],
        ...['database_oid', 'at', 'floor', 'lows'],
      ],
      json: { gaps: { '**': 'none' } },
      ...OWN,
    },
    'tabib.outbox_attempt': { none: ['service', 'suspects', 'event_id', 'attempts', 'last_at'], ...OWN },
    'tabib.outbox_sample': { none: ['service', 'at', 'pending', 'lag_s'], ...OWN_MONTHS },
    'tabib.inbox_sweep': { none: ['service', 'consumer', 'stream_seq', 'at'], ...OWN },
    'tabib.ledger_seal': { none: ['n', 'digest', 'sealed_at'], ...OWN },
    'tabib.worker_heartbeat': {
      none: [
        ...['name', 'instance', 'host', 'pid', 'version', 'expected_every_s', 'started_at', 'beat_at'],
        ...[
          'pass_started_at',
          'last_pass_at',
          'next_pass_at',
          'last_error',
          'passes',
          'failures',
          'stopped_at',
        ],
      ],
      // Counts, ids and words, as every worker's contract says.
      json: { last_result: { '**': 'none' } },
      ...OWN_MONTHS,
    },
    'tabib.process': {
      none: [
        ...[
          'instance',
          'host',
          'what',
          'at',
          'waits',
          'wait_p95_s',
          'refused',
          'clock_offset_s',
          'clock_error_s',
        ],
        'ntp',
      ],
      retention: 'P1D',
    },
    'tabib.worker_lease': { none: ['name', 'holder', 'expires_at'], ...OWN },
    'tabib.migration': { none: ['id', 'name', 'run_on'], ...OWN },
  },
  streams: {
    tabib_erasures: {
      class: 'pseudonymous',
      holds: 'whom to erase again after a restore, and legal holds: keyed hashes alone',
      retention: 'for-good',
      hold: 'without it a restore would bring back whoever was erased since the backup',
    },
    tabib_erasure_steps: {
      class: 'none',
      holds: 'which participant is to do which step: ids of requests',
      retention: 'P7D',
    },
    tabib_revocations: {
      class: 'none',
      holds: 'what keys say of their own revocation',
      retention: 'for-good',
    },
  },
  caches: {
    // BullMQ's queues, one a worker: jobs carry the names of workers.
    'tabib:*:{id,meta,events,repeat,delayed,completed,failed,active,wait,paused,prioritized,marker,pc,stalled,stalled-check}':
      { class: 'none', holds: 'the schedule of the workers', retention: 'for-good' },
    'tabib:*:repeat:*': { class: 'none', holds: 'jobs of the schedule', retention: 'for-good' },
  },
  stores: {
    backups: {
      class: 'personal',
      holds: 'every table as it was; a restored one takes no traffic before `tabib erasure reapply`',
      retention: 'P35D',
    },
    'write-ahead log': {
      class: 'personal',
      holds: 'every change of a row, until it is archived and the archive has expired',
      retention: 'P35D',
    },
    'planner statistics': {
      class: 'personal',
      holds: 'most common values of columns (pg_statistic), made anew by analyze',
      retention: 'P1D',
    },
    'ledger seals': {
      class: 'subject-key',
      holds: 'codes and figures of accounts (`ledger.seals`), as they were when they were sealed',
      retention: 'tenant:billing',
      hold: 'evidence that no posting was changed',
    },
    'backup manifests': {
      class: 'none',
      holds: 'what lies where (`residency.manifests`)',
      retention: 'for-good',
    },
    'key store': { class: 'none', holds: 'private halves of signing keys', retention: 'for-good' },
    'erasure secret': {
      class: 'none',
      holds: 'what keyed hashes, pseudonyms and subjects’ keys derive from (`erasure.secretFile`)',
      retention: 'for-good',
    },
    logs: { class: 'none', holds: 'lines of tabib’s processes: ids, figures and words', retention: 'P30D' },
  },
}
