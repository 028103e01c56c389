import { TabibError } from '../errors.ts'
import { nearest } from '../nearest.ts'
import type { Worker } from '../worker.ts'
import { duplicateReversal } from './duplicate-reversal.ts'
import { erasureParticipants } from './erasure-participants.ts'
import { erasureReplay } from './erasure-replay.ts'
import { erasureScan } from './erasure-scan.ts'
import { erasureSweep } from './erasure-sweep.ts'
import { inbox } from './inbox.ts'
import { inboxSweep } from './inbox-sweep.ts'
import { keyRotation } from './key-rotation.ts'
import { ledgerIntegrity } from './ledger-integrity.ts'
import { messageDispatch } from './message-dispatch.ts'
import { messageWatch } from './message-watch.ts'
import { outboxMonitor } from './outbox-monitor.ts'
import { outboxPreflight } from './outbox-preflight.ts'
import { outboxRelay } from './outbox-relay.ts'
import { outboxRetention } from './outbox-retention.ts'
import { pager } from './pager.ts'
import { phiScan } from './phi-scan.ts'
import { priceWatch } from './price-watch.ts'
import { refundWatch } from './refund-watch.ts'
import { statementRun } from './statement-run.ts'

/** Every background worker. */
export const workers: readonly Worker[] = [
  outboxRelay,
  outboxMonitor,
  outboxPreflight,
  outboxRetention,
  inbox,
  inboxSweep,
  keyRotation,
  ledgerIntegrity,
  priceWatch,
  messageDispatch,
  messageWatch,
  phiScan,
  refundWatch,
  duplicateReversal,
  erasureReplay,
  erasureSweep,
  erasureScan,
  ...erasureParticipants,
  statementRun,
  pager,
]

/** The worker with this name. @throws TabibError NOT_FOUND naming the one that was probably meant. */
export function findWorker(name: string): Worker {
  const found = workers.find((worker) => worker.name === name)
  if (found) return found
  const known = workers.map((worker) => worker.name)
  const meant = nearest(name, known)
  throw new TabibError('NOT_FOUND', `no worker "${name}"; there are ${known.join(', ')}`, {
    suggestions: [...(meant ? [`tabib worker run ${meant}`] : []), 'tabib worker list'],
    context: { name },
  })
}
