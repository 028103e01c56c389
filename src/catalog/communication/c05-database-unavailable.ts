import { randomUUID } from 'node:crypto'
import { appendFile, readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { takesWrites } from '../../domain/cluster/writable.ts'
import { MESSAGE_PATH } from '../../domain/messaging/request-message.ts'
import { readPreflight } from '../../domain/outbox/preflight.ts'
import { issueServiceToken } from '../../domain/sessions/caller.ts'
import { TabibError } from '../../errors.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C05',
  kind: 'alert',
  title: 'The communication database takes no writes',
  severity: 'page',
  detect: {
    metric: 'communication_database_available',
    measure: async (app) => {
      const { preflight } = app.config.outbox
      const [{ value, ...evidence }, waiting] = await Promise.all([
        takesWrites(app),
        preflight && readPreflight(preflight.folder),
      ])
      const behind = waiting !== undefined && waiting.waiting + waiting.refused > 0
      return { value: behind ? 0 : value, evidence: { ...evidence, ...waiting } }
    },
    fires: { below: 1 },
    says: (value) =>
      value < 1
        ? 'Postgres takes no writes, or what was accepted meanwhile waits still'
        : 'Postgres takes writes, and none waits outside it',
    for: '15s',
    entails: ['billing/FM-01', 'tabib/worker-stopped'],
  },
  mitigate: { worker: 'outbox-preflight', command: ['outbox', 'drain'] },
  drill: {
    // Postgres dies under clients that send messages, then the API in the midst of accepting them, a record half written.
    inject: async (world): Promise<Outage> => {
      const folder = join(dirname(world.env.TABIB_CONFIG!), 'preflight')
      await world.configure({ outbox: { preflight: { folder } } })
      const clients = await startClients(world)
      await clients.answered(201, 20)
      await world.postgres.kill()
      await clients.answered(202, 100)
      const accepted = await clients.killApi()
      const newest = (await readdir(folder))
        .filter((name) => name.endsWith('.open'))
        .sort()
        .at(-1)!
      await appendFile(join(folder, newest), Buffer.from('5442504600000200deadbeef7b22', 'hex'))
      return {
        accepted,
        async [Symbol.asyncDispose]() {
          await world.postgres.restart()
        },
      }
    },
    relent: (world) => world.postgres.restart(),
    verify: async (world, fault) => {
      const { accepted } = fault as Outage
      const rows = await world.db.query<{ id: string; events: number }>(
        `select a.id, (select count(*) from communication.outbox o where o.id::text = a.id)::int as events
         from unnest($1::text[]) a (id)`,
        [accepted],
      )
      const [made] = await world.db.query<{ twice: number }>(
        `select count(*)::int as twice from (
           select from communication.outbox where aggregate_type = 'message' group by aggregate_id having count(*) > 1) o`,
      )
      const lost = rows.filter(({ events }) => events === 0).length
      return [
        ...(lost > 0 ? [`${lost} of ${accepted.length} accepted messages are lost`] : []),
        ...(made!.twice > 0 ? [`${made!.twice} messages were made twice`] : []),
      ]
    },
  },
})

type Outage = AsyncDisposable & { accepted: string[] }

const CLIENTS = 8
const ANSWER_POLLS = 3_000

/** Clients that send messages to one API until it is killed, and keep the ids of those that were accepted. */
async function startClients(world: World) {
  const { tenantId } = await world.visit()
  const { token } = await issueServiceToken(world.app, {
    service: 'scheduling',
    tenantId,
    audience: 'communication',
    lifetimeS: 300,
  })
  const api = await world.startApi()
  const accepted: string[] = []
  const answers: Record<number, number> = {}
  let over = false
  const send = async () => {
    while (!over) {
      const body = { patientId: randomUUID(), channel: 'sms', template: 'appointment-reminder' }
      const response = await fetch(`${api.url}${MESSAGE_PATH}`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${token}`,
          'content-type': 'application/json',
          'idempotency-key': randomUUID(),
        },
        body: JSON.stringify(body),
      }).catch(() => undefined)
      const answer = await response?.json().catch(() => undefined)
      if (response === undefined || answer === undefined) {
        await delay(5)
        continue
      }
      answers[response.status] = (answers[response.status] ?? 0) + 1
      if (response.status === 201 || response.status === 202) accepted.push((answer as { id: string }).id)
    }
  }
  const sending = Promise.all(Array.from({ length: CLIENTS }, send))
  return {
    async answered(status: number, count: number) {
      for (let polls = 0; (answers[status] ?? 0) < count; polls += 1) {
        if (polls === ANSWER_POLLS) {
          over = true
          throw new TabibError('TIMED_OUT', `not ${count} answers of ${status}: ${JSON.stringify(answers)}`)
        }
        await delay(10)
      }
    },
    async killApi(): Promise<string[]> {
      api.signal('SIGKILL')
      await api.exited
      over = true
      await sending
      return accepted
    },
  }
}
