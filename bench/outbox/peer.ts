import { jetstream } from '@nats-io/jetstream'
import { headers } from '@nats-io/transport-node'
import {
  createReplicationMutexConcurrencyController,
  createReplicationSegmentMutexConcurrencyController,
  getDisabledLogger,
  initializePollingMessageListener,
  initializeReplicationMessageListener,
  type StoredTransactionalMessage,
} from 'pg-transactional-outbox'
import { childEnv, connectNats } from './child.ts'

// pg-transactional-outbox with a handler that publishes to the same stream and waits for its acknowledgement.
// argv: `polling BATCH` | `replication mutex` | `replication segment`
const [mode, setting] = process.argv.slice(2)
const nc = await connectNats()
const js = jetstream(nc)

const handler = {
  async handle(message: StoredTransactionalMessage): Promise<void> {
    const own = headers()
    own.set('aggregate_type', message.aggregateType)
    own.set('aggregate_id', message.aggregateId)
    const subject = `billing.evt.${message.aggregateType}.${message.messageType}`
    await js.publish(subject, JSON.stringify(message.payload), { msgID: message.id, headers: own })
  },
}
// Its marks of what is done need no flush each: a mark that is lost costs a duplicate, not an event.
const connection = {
  connectionString: childEnv('PEER_DATABASE_URL'),
  max: 20,
  options: '-c synchronous_commit=off',
}
const settings = {
  dbSchema: 'peer',
  dbTable: 'outbox',
  enableMaxAttemptsProtection: false,
  enablePoisonousMessageProtection: false,
  // Everything that it has read counts as being processed; at the default a backlog times out and is read again.
  messageProcessingTimeoutInMs: 600_000,
}

if (mode === 'polling') {
  initializePollingMessageListener(
    {
      outboxOrInbox: 'outbox',
      dbListenerConfig: connection,
      settings: {
        ...settings,
        nextMessagesFunctionSchema: 'peer',
        nextMessagesFunctionName: 'next_outbox_messages',
        nextMessagesPollingIntervalInMs: 10,
        nextMessagesLockInMs: 60_000,
      },
    },
    handler,
    getDisabledLogger(),
    { batchSizeStrategy: async () => Number(setting) },
  )
} else {
  initializeReplicationMessageListener(
    {
      outboxOrInbox: 'outbox',
      dbListenerConfig: connection,
      settings: { ...settings, dbPublication: 'peer_outbox', dbReplicationSlot: 'peer_outbox' },
    },
    handler,
    getDisabledLogger(),
    {
      concurrencyStrategy:
        setting === 'segment'
          ? createReplicationSegmentMutexConcurrencyController()
          : createReplicationMutexConcurrencyController(),
    },
  )
}
