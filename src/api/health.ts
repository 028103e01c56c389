import type { FastifyInstance } from 'fastify'
import type { App } from '../app.ts'
import { openRestoreGuard } from '../domain/erasure/restore-guard.ts'
import { assertMigrated } from '../domain/schema/migrate.ts'
import { TabibError } from '../errors.ts'
import type { Fleet } from '../worker.ts'

const ANSWER_WITHIN_MS = 2_000
const AWAY: readonly string[] = ['POSTGRES_UNREACHABLE', 'POOL_EXHAUSTED']

/**
 * `/livez`: 503 when a worker of this process hangs, so that it is started again. It asks no server, whose absence no
 * restart would mend. `/readyz`: 503 while something that this process needs is away, or one of its verifiers does not
 * hold, or has not proved, a published key, or the database was restored to a time before an erasure, with the reason for
 * each. What takes messages without Postgres stays ready without it, or nobody would be sent to it.
 */
export function healthRoutes(
  server: FastifyInstance,
  app: App,
  fleet: Fleet,
  {
    verifiers,
    worksWithoutPostgres,
  }: { verifiers: readonly { lacks(): string[] }[]; worksWithoutPostgres: boolean },
): void {
  const guard = openRestoreGuard(app)
  server.get('/livez', async (_request, reply) => {
    const hanging = fleet.running.filter((one) => !one.alive()).map(({ worker }) => worker.name)
    return reply.code(hanging.length === 0 ? 200 : 503).send({ live: hanging.length === 0, hanging })
  })

  server.get('/readyz', async (_request, reply) => {
    const needsNats = fleet.running.some(({ worker }) => worker.needs.includes('nats'))
    const [postgres, nats] = await Promise.all([
      reasonOf('postgres', assertMigrated(app)),
      needsNats ? reasonOf('nats', app.nats.ping()) : undefined,
    ])
    const erasures = postgres ? undefined : await reasonOf('erasures', guard.assertApplied())
    // A database that answers and does not fit is no absence that the preflight bridges.
    const waits = worksWithoutPostgres && postgres?.isAway === true
    const lacks = verifiers.flatMap((one) => one.lacks())
    const keys = lacks.length > 0 ? lacks.join('; ') : undefined
    const reasons = {
      ...(postgres && !waits && { postgres: postgres.why }),
      ...(nats && { nats: nats.why }),
      ...(keys && { keys }),
      ...(erasures && { erasures: erasures.why }),
    }
    const ready = Object.keys(reasons).length === 0
    // Scheduled workers go on by their own timers meanwhile, so this alone is no reason to be taken out of service.
    const degraded = {
      ...(fleet.scheduled === false && { redis: 'the schedule is away; own timers stand in' }),
      ...(waits && { postgres: `messages wait in the preflight, all else is refused: ${postgres.why}` }),
    }
    return reply.code(ready ? 200 : 503).send({ ready, reasons, degraded })
  })
}

interface Reason {
  why: string
  /** Nobody answers; otherwise somebody does, and cannot be used. */
  isAway: boolean
}

/** Why a system cannot be used, in words that hold no secret; undefined when it can. */
async function reasonOf(system: string, asking: Promise<unknown>): Promise<Reason | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Reason>((resolve) => {
    const why = `no answer within ${ANSWER_WITHIN_MS / 1_000} s`
    timer = setTimeout(() => resolve({ why, isAway: true }), ANSWER_WITHIN_MS)
  })
  const answer = asking.then(
    () => undefined,
    (error: unknown) => ({
      why: error instanceof TabibError ? error.message : `${system} answered with an error`,
      isAway: error instanceof TabibError && AWAY.includes(error.code),
    }),
  )
  return Promise.race([answer, late]).finally(() => clearTimeout(timer))
}
