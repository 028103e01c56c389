import { beforeEach, describe, expect, test } from 'vitest'
import { workersAlive } from '../src/domain/workers/alive.ts'
import { useDatabase } from './support/database.ts'

const database = useDatabase()

beforeEach(() => database.owner.query('delete from tabib.worker_heartbeat'))

async function beat(
  name: string,
  instance: string,
  { ageS, stopped = false }: { ageS: number; stopped?: boolean },
) {
  await database.db.query(
    `insert into tabib.worker_heartbeat
       (name, instance, host, pid, version, expected_every_s, started_at, beat_at, stopped_at)
     values ($1, $2, 'herat', 1, '0.1.0', 30, now() - interval '2 days', now() - make_interval(secs => $3),
             case when $4 then now() - make_interval(secs => $3) end)`,
    [name, instance, ageS, stopped],
  )
}

describe('a worker', () => {
  test('that has never run is not missed', async () => {
    expect(await workersAlive(database)).toEqual({ ratio: undefined, stopped: [] })
  })

  test('that beats in time is alive', async () => {
    await beat('outbox-relay', 'a', { ageS: 5 })
    expect(await workersAlive(database)).toEqual({ ratio: 1, stopped: [] })
  })

  test('that went silent has stopped, and is named with its host', async () => {
    await beat('outbox-relay', 'a', { ageS: 5 })
    await beat('incident-pager', 'a', { ageS: 61 })
    expect(await workersAlive(database)).toEqual({
      ratio: 0.5,
      stopped: [{ name: 'incident-pager', host: 'herat', beatAgeS: 61 }],
    })
  })

  test('that died on one host and beats on another is alive', async () => {
    await beat('outbox-relay', 'a', { ageS: 600 })
    await beat('outbox-relay', 'b', { ageS: 5 })
    expect((await workersAlive(database)).ratio).toBe(1)
  })

  test('that said it was stopping is not missed', async () => {
    await beat('outbox-relay', 'a', { ageS: 600, stopped: true })
    expect(await workersAlive(database)).toEqual({ ratio: 1, stopped: [] })
  })

  test('that died, and then ran once to its end, is not missed', async () => {
    await beat('outbox-relay', 'a', { ageS: 600 })
    await beat('outbox-relay', 'b', { ageS: 5, stopped: true })
    expect(await workersAlive(database)).toEqual({ ratio: 1, stopped: [] })
  })

  test('is forgotten a day after its last beat', async () => {
    await beat('outbox-relay', 'a', { ageS: 86_500 })
    expect(await workersAlive(database)).toEqual({ ratio: undefined, stopped: [] })
  })
})
