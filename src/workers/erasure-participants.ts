import { createApp } from '../app.ts'
import { PARTICIPANTS } from '../domain/erasure/participants.ts'
import { drainParticipant, runParticipant } from '../domain/erasure/perform.ts'
import type { ContinuousWorker } from '../worker.ts'

/** One worker a participant, so that each can run as a process of its own, beside the service whose data it erases. */
export const erasureParticipants: ContinuousWorker[] = PARTICIPANTS.map((participant) => ({
  name: `erasure-${participant.id}`,
  describe: `erases what ${participant.id} has of a patient, and acknowledges it`,
  cadence: { loops: [participant.id], aliveWithinMs: 60_000 },
  needs: participant.id === 'cache' ? ['nats', 'redis'] : ['nats'],
  async run(app, { instance, signal, passed, failed }) {
    await using own = createApp(app.config, { log: app.log })
    await runParticipant(own, participant, {
      instance: instance.id,
      signal,
      onPass: passed,
      onOutage: failed,
    })
  },
  once: (app, { instance, signal }) => drainParticipant(app, participant, { instance: instance.id, signal }),
}))
