import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-02',
  kind: 'alert',
  title: 'NATS JetStream is unreachable and billing events queue in the outbox',
  severity: 'page',
})
