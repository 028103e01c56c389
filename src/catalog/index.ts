import { TabibError } from '../errors.ts'
import { nearest } from '../nearest.ts'
import fm01 from './billing/fm-01-postgres-primary-down.ts'
import fm02 from './billing/fm-02-nats-unreachable.ts'
import fm03 from './billing/fm-03-tenant-service-down.ts'
import fm04 from './billing/fm-04-terminology-service-down.ts'
import fm05 from './billing/fm-05-fhir-gateway-down.ts'
import fm06 from './billing/fm-06-payment-gateway-down.ts'
import fm07 from './billing/fm-07-ledger-drift.ts'
import fm08 from './billing/fm-08-duplicate-charge-capture.ts'
import fm09 from './billing/fm-09-idempotency-ttl.ts'
import fm10 from './billing/fm-10-refund-approval-stuck.ts'
import fm11 from './billing/fm-11-statement-run-timeout.ts'
import fm12 from './billing/fm-12-clock-skew.ts'
import fm13 from './billing/fm-13-currency-missing.ts'
import fm14 from './billing/fm-14-price-list-lapse.ts'
import fm15 from './billing/fm-15-row-level-security-off.ts'
import fm16 from './billing/fm-16-pdf-renderer-out-of-memory.ts'
import fm17 from './billing/fm-17-outbox-relay-behind.ts'
import fm18 from './billing/fm-18-poison-event.ts'
import fm19 from './billing/fm-19-connection-pool-exhausted.ts'
import fm20 from './billing/fm-20-jwks-not-refreshed.ts'
import fm21 from './billing/fm-21-cross-border-transfer.ts'
import fm22 from './billing/fm-22-residency-drift-in-recovery.ts'
import c01 from './communication/c01-sms-provider-outage.ts'
import c02 from './communication/c02-push-feedback-stalled.ts'
import c03 from './communication/c03-email-bounce-spike.ts'
import c04 from './communication/c04-virtual-room-unreachable.ts'
import c05 from './communication/c05-database-unavailable.ts'
import c06 from './communication/c06-nats-unavailable.ts'
import c07 from './communication/c07-cache-miss-flood.ts'
import c08 from './communication/c08-attachment-scan-stuck.ts'
import c09 from './communication/c09-outbox-relay-crash-loop.ts'
import c10 from './communication/c10-join-token-forged.ts'
import c11 from './communication/c11-patient-data-in-push.ts'
import c12 from './communication/c12-cross-tenant-participant.ts'
import c13 from './communication/c13-delivery-report-flood.ts'
import c14 from './communication/c14-fallback-loop.ts'
import c15 from './communication/c15-erasure-partial.ts'
import c16 from './communication/c16-clock-skew.ts'
import c17 from './communication/c17-attachment-too-large.ts'
import c18 from './communication/c18-scheduling-event-redelivered.ts'
import c19 from './communication/c19-template-not-found.ts'
import c20 from './communication/c20-recording-ingest-failure.ts'
import slo from './communication/slo-error-budget.ts'
import type { FailureMode } from './failure-mode.ts'
import sync1 from './sync/1-conflict-policy.ts'
import sync2 from './sync/2-async-visit-offline.ts'
import sync3 from './sync/3-session-optimistic-lock.ts'
import sync4 from './sync/4-live-session-no-offline.ts'
import sync5 from './sync/5-idempotency-headers.ts'
import databaseRestored from './tabib/database-restored.ts'
import messagesWaiting from './tabib/messages-waiting.ts'
import workerStopped from './tabib/worker-stopped.ts'
import f01 from './virtual-care/f01-video-backend-unreachable.ts'
import f02 from './virtual-care/f02-video-backend-lost.ts'
import f03 from './virtual-care/f03-join-token-expired.ts'
import f04 from './virtual-care/f04-optimistic-lock-conflict.ts'
import f05 from './virtual-care/f05-fhir-gateway-unavailable.ts'
import f06 from './virtual-care/f06-recording-not-stored.ts'
import f07 from './virtual-care/f07-consent-service-unavailable.ts'
import f08 from './virtual-care/f08-session-ended-twice.ts'
import f09 from './virtual-care/f09-patient-network-drop.ts'
import f10 from './virtual-care/f10-provider-quota-exceeded.ts'
import f11 from './virtual-care/f11-async-visit-duplicate.ts'
import f12 from './virtual-care/f12-nats-unavailable.ts'
import f13 from './virtual-care/f13-kms-unavailable.ts'
import f14 from './virtual-care/f14-ai-gateway-unavailable.ts'

/** Every failure mode: one a row of `docs/spec/`, in its order, then our own. */
export const catalog: readonly FailureMode[] = [
  fm01,
  fm02,
  fm03,
  fm04,
  fm05,
  fm06,
  fm07,
  fm08,
  fm09,
  fm10,
  fm11,
  fm12,
  fm13,
  fm14,
  fm15,
  fm16,
  fm17,
  fm18,
  fm19,
  fm20,
  fm21,
  fm22,
  c01,
  c02,
  c03,
  c04,
  c05,
  c06,
  c07,
  c08,
  c09,
  c10,
  c11,
  c12,
  c13,
  c14,
  c15,
  c16,
  c17,
  c18,
  c19,
  c20,
  slo,
  f01,
  f02,
  f03,
  f04,
  f05,
  f06,
  f07,
  f08,
  f09,
  f10,
  f11,
  f12,
  f13,
  f14,
  sync1,
  sync2,
  sync3,
  sync4,
  sync5,
  databaseRestored,
  messagesWaiting,
  workerStopped,
]

/**
 * The mode with this id, in any case: `billing/fm-17`.
 *
 * @throws TabibError NOT_FOUND naming the ids that come near.
 */
export function findMode(id: string): FailureMode {
  const wanted = id.toLowerCase()
  const found = catalog.find((mode) => mode.id.toLowerCase() === wanted)
  if (found) return found
  const near = nearMode(wanted)
  throw new TabibError('NOT_FOUND', `no failure mode "${id}"${near ? `; near it: ${near}` : ''}`, {
    suggestions: [...(near ? [`tabib explain ${near}`] : []), 'tabib catalog list'],
    context: { id },
  })
}

function nearMode(wanted: string): string | undefined {
  // Without its service an id is compared with ids without theirs.
  const known = (id: string) => (wanted.includes('/') ? id : id.slice(id.indexOf('/') + 1)).toLowerCase()
  const meant = nearest(
    wanted,
    catalog.map(({ id }) => known(id)),
  )
  return catalog.find(({ id }) => known(id) === meant)?.id
}
