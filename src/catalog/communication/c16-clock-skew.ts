import { randomUUID } from 'node:crypto'
import { allClocks, SKEW_LIMIT_S, skewOf } from '../../domain/cluster/clocks.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C16',
  kind: 'alert',
  title: "The clocks of communication's hosts are more than 500 ms apart",
  severity: 'ticket',
  detect: {
    metric: 'communication_clock_skew_seconds',
    measure: async (app) => {
      const { seconds, off, unmeasured } = skewOf(await allClocks(app))
      return { value: seconds, evidence: { off, ...(unmeasured.length > 0 && { unmeasured }) } }
    },
    fires: { above: SKEW_LIMIT_S, unit: 's' },
    says: (seconds) =>
      `the clocks of hosts, Postgres, Redis and NATS are ${Math.round(seconds * 1_000)} ms apart`,
    for: '30s',
    entails: ['billing/FM-12'],
  },
  mitigate: { command: ['cluster', 'clocks', '--step', '--yes'] },
  drill: {
    needs: { clock: true },
    // A message is sent and read while Postgres's clock steps back: by their times it was read before it was sent.
    inject: async (world) => {
      await world.configure({ clocks: { step: world.postgres.clock!.step } })
      const relay = await world.startWorkers(['outbox-relay'])
      const message = {
        count: 1,
        aggregateType: 'message',
        aggregateId: randomUUID(),
        tenantId: randomUUID(),
      }
      const sent = await world.produce('communication', { ...message, type: 'sent' })
      await world.postgres.clock!.shift(-2)
      const read = await world.produce('communication', { ...message, type: 'read' })
      return {
        inOrder: [...sent, ...read],
        async [Symbol.asyncDispose]() {
          await world.postgres.clock!.shift(0)
          await relay[Symbol.asyncDispose]()
        },
      }
    },
    verify: async (world, fault) => {
      const { inOrder } = fault as AsyncDisposable & { inOrder: string[] }
      const rows = await world.db.query<{ id: string; at: Date }>(
        'select id::text as id, occurred_at as at from communication.outbox where id = any($1::uuid[]) order by seq',
        [inOrder],
      )
      const [sent, read] = rows
      return [
        ...(rows.map(({ id }) => id).join() === inOrder.join()
          ? []
          : ['the read receipt stands before the message']),
        // Or the fault has not taken, and the order proves nothing.
        ...(sent && read && read.at < sent.at ? [] : ['the clock did not step between the two']),
        ...(await compareWithStream(world.app, { service: 'communication' })),
      ]
    },
  },
})
