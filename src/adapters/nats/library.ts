/** What a connection needs of NATS's client; a module of its own, so that it's loaded by whoever connects. */
export { jetstream, jetstreamManager } from '@nats-io/jetstream'
export { connect, createInbox, headers } from '@nats-io/transport-node'
