import { expect, test } from 'vitest'
import { useWorld } from '../support/world.ts'

const world = useWorld()

test('while Postgres hangs, who waits is told 503 and not left waiting', { timeout: 60_000 }, async () => {
  const visit = await world().visit()
  await using api = await world().startApi()
  const { body } = await api.ask(visit)
  expect((await api.join(visit, body.token!)).status).toBe(200)
  await world().postgres.pause()
  try {
    const answers = await Promise.all([api.ask(visit), api.join(visit, body.token!)])
    expect(answers).toMatchObject([1, 2].map(() => ({ status: 503, body: { code: 'POSTGRES_UNREACHABLE' } })))
  } finally {
    await world().postgres.resume()
  }
  expect((await api.join(visit, body.token!)).status).toBe(200)
})
