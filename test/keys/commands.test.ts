import { expect, test } from 'vitest'
import { keySetAt } from '../../src/domain/keys/verifier.ts'
import { runJson } from '../support/line.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()
const purpose = 'service-token'

/** Runs `tabib keys …` and returns its exit code with the result, or the error. */
async function keys(...argv: string[]) {
  const { exitCode, envelope } = await runJson(['keys', ...argv], world().env)
  const { result, error, warnings } = envelope as {
    result: Record<string, unknown> & Record<string, unknown>[]
    error?: { code: string; message: string; actions: string[] }
    warnings?: string[]
  }
  return { exitCode, result, error, warnings }
}

test('from the first key to a leaked one', { timeout: 60_000 }, async () => {
  expect(await keys('list')).toMatchObject({ exitCode: 0, result: [] })
  expect(await keys('jwks', '--purpose', purpose)).toMatchObject({
    exitCode: 2,
    error: { code: 'NOT_FOUND' },
  })
  expect(await keys('rotate', '--purpose', 'No Purpose')).toMatchObject({
    exitCode: 2,
    error: { code: 'USAGE' },
  })
  const tight = await keys('rotate', '--purpose', purpose, '--overlap', '10m')
  expect(tight).toMatchObject({ exitCode: 5, error: { code: 'OVERLAP_TOO_SHORT' } })
  expect(tight.error?.message).toContain('at least 930 s are needed')
  expect(await keys('rotate', '--purpose', purpose)).toMatchObject({
    exitCode: 5,
    error: { code: 'CONFIRMATION_REQUIRED' },
  })

  const { result: first } = await keys('rotate', '--purpose', purpose, '--yes')
  const { result: planned } = await keys('rotate', '--purpose', purpose, '--algorithm', 'EdDSA', '--dry-run')
  const apply = ['--purpose', purpose, '--algorithm', 'EdDSA', '--apply', planned.planHash as string, '--yes']
  const { result: second } = await keys('rotate', ...apply)
  expect(second.waits).toEqual([expect.stringMatching(/ s for caches of verifiers that do not attest$/)])
  expect((await keys('rotate', ...apply)).result).toMatchObject({ kid: second.kid, moved: [] })
  expect((await keys('status')).result).toMatchObject([
    { purpose, active: first.kid, rotation: { kid: second.kid, phase: 'attest' }, problems: [] },
  ])
  expect((await keys('jwks', '--purpose', purpose)).result.keys).toHaveLength(2)

  await world().owner.query(`update tabib.signing_key set published_at = published_at - interval '11 min'`)
  const once = await world().tabib(['worker', 'run', 'key-rotation', '--once'])
  expect(once).toMatchObject({
    exitCode: 0,
    envelope: { result: { 'key-rotation': { moved: 1, waits: [] } } },
  })
  expect(await keys('rotate', ...apply)).toMatchObject({ exitCode: 6, error: { code: 'PLAN_STALE' } })
  const back = ['rollback', '--purpose', purpose, '--yes']
  expect((await keys(...back)).result).toMatchObject({ from: second.kid, to: first.kid })
  expect(await keys(...back)).toMatchObject({ exitCode: 5, error: { code: 'NOT_NEEDED' } })

  const kid = first.kid as string
  expect(await keys('revoke', 'nonsense')).toMatchObject({ exitCode: 2, error: { code: 'NOT_FOUND' } })
  expect(await keys('revoke')).toMatchObject({ exitCode: 2, error: { code: 'USAGE' } })
  expect(await keys('revoke', kid, '--confirm', kid)).toMatchObject({ error: { code: 'REASON_REQUIRED' } })
  const { result: revoked } = await keys('revoke', kid, '--confirm', kid, '--reason', 'leaked')
  expect(revoked).toMatchObject({ kid, revoked: true, announced: true })
  expect((await keys('list', '--ended')).result.map(({ kid, phase }) => [kid, phase])).toEqual([
    [kid, 'revoked'],
    [second.kid, 'drain'],
    [revoked.successor, 'activate'],
  ])
  expect(JSON.stringify((await runJson(['audit', 'list'], world().env)).envelope)).not.toContain('"d"')
})

test('a replica is not ready until it holds every published key and has proved each', async () => {
  await using issuer = await world().startWorkers(['key-rotation'])
  const keysUrl = await issuer.listening()
  await keys('rotate', '--purpose', 'probed', '--yes')
  await using replica = await world().startVerifier({ purpose: 'probed', keysUrl, instance: 'replica-1' })
  const url = await replica.listening()
  expect(await (await fetch(`${url}/readyz`)).json()).toMatchObject({ ready: true })
  // Its public half is not that of the key that signed the probe.
  const { keys: held } = await keySetAt(
    `${keysUrl}/api/v1/keys/probed/jwks.json`,
    fetch,
  )(AbortSignal.timeout(5_000))
  await world().owner.query(`update tabib.signing_key set probe = probe || 'x' where kid = $1`, [
    held[0]?.kid,
  ])
  await using second = await world().startVerifier({ purpose: 'probed', keysUrl, instance: 'replica-2' })
  const answer = await fetch(`${await second.listening()}/readyz`)
  expect(answer.status).toBe(503)
  expect(await answer.json()).toMatchObject({
    ready: false,
    reasons: { keys: expect.stringContaining('could not be proved') },
  })
})
