import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { chronyState, readNtp, systemdState } from '../../src/adapters/ntp/client.ts'
import { type App, createApp, createLogger } from '../../src/app.ts'
import { type Config, loadConfig } from '../../src/config.ts'
import { clockOffset } from '../../src/domain/cluster/clock-offset.ts'
import { allClocks, type Clock, podClocks, skewOf } from '../../src/domain/cluster/clocks.ts'
import { judgeClocks } from '../../src/domain/cluster/judge-clocks.ts'
import { planStep } from '../../src/domain/cluster/step-clocks.ts'
import { useDatabase } from '../support/database.ts'

const database = useDatabase()
let config: Config
const opened: App[] = []
const appWith = (settings: Partial<Config> = {}): App => {
  const app = createApp({ ...config, ...settings }, { log: createLogger('silent') })
  opened.push(app)
  return app
}
beforeAll(() => {
  const env = {
    TABIB_DATABASE_URL: database.url('tabib'),
    TABIB_NATS_URL: inject('natsUrl'),
    TABIB_REDIS_URL: inject('redisUrl'),
  }
  config = loadConfig({ env })
})
afterAll(() => Promise.all(opened.map((app) => app[Symbol.asyncDispose]())))

describe('another clock’s offset', () => {
  const delayMs = fc.double({ min: 0, max: 2_000, noNaN: true })
  const ways = fc.array(fc.record({ there: delayMs, back: delayMs, pause: delayMs }), {
    minLength: 1,
    maxLength: 12,
  })
  const trueOffset = fc.double({ min: -1e6, max: 1e6, noNaN: true })
  const samplesOf = (
    offset: number,
    resolutionMs: number,
    all: { there: number; back: number; pause: number }[],
  ) => {
    let now = 1.8e12
    return all.map(({ there, back, pause }) => {
      const askedAt = now
      const exact = askedAt + there + offset
      const told = resolutionMs === 0 ? exact : Math.floor(exact / resolutionMs) * resolutionMs
      now = askedAt + there + back + pause
      return { askedAt, answeredAt: askedAt + there + back, told }
    })
  }

  test('lies within the bounds that are given, however the way there and back differ, and however coarse the clock', () => {
    fc.assert(
      fc.property(trueOffset, ways, fc.constantFrom(0, 1_000), (offset, all, resolutionMs) => {
        const { offsetMs, errorMs } = clockOffset(samplesOf(offset, resolutionMs, all), { resolutionMs })!
        expect(Math.abs(offsetMs - offset)).toBeLessThanOrEqual(errorMs + 0.01)
        const quickest = Math.min(...all.map(({ there, back }) => there + back))
        expect(errorMs).toBeLessThanOrEqual((quickest + resolutionMs) / 2 + 1.01)
      }),
    )
  })

  test('of a clock of whole seconds is known to a few milliseconds once it was asked across a change of second', () => {
    const all = Array.from({ length: 60 }, () => ({ there: 1, back: 1, pause: 18 }))
    expect(clockOffset(samplesOf(730, 1_000, all), { resolutionMs: 1_000 })!.errorMs).toBeLessThan(15)
  })

  test('after a step of the clock is the new one', () => {
    const quick = [{ there: 1, back: 1, pause: 10 }]
    const samples = [...samplesOf(5_000, 0, quick), ...samplesOf(-20, 0, quick)]
    expect(clockOffset(samples)!.offsetMs).toBeCloseTo(-20, 0)
    expect(clockOffset([])).toBeUndefined()
  })
})

describe('skew', () => {
  const clock = (name: string, offsetMs: number, errorMs = 1): Clock => ({
    name,
    host: name,
    offset: { offsetMs, errorMs },
    error: undefined,
    ntp: undefined,
  })

  test('names the clock that is alone, this host among them', () => {
    const one = skewOf([clock('a', 0), clock('b', -3_000), clock('c', 5)])
    expect(one.seconds).toBeCloseTo(3.003, 2)
    expect(one.off).toMatchObject([{ name: 'b' }])
    expect(skewOf([clock('a', 900), clock('b', 905), clock('c', 895)]).off).toMatchObject([
      { name: 'this host' },
    ])
    expect(skewOf([clock('a', 900)]).off).toHaveLength(2)
  })

  test('is what is certain: neither the limit itself, nor what a slow answer leaves open', () => {
    expect(skewOf([clock('a', 499)])).toMatchObject({ off: [] })
    expect(skewOf([clock('a', 700, 400)])).toMatchObject({
      seconds: 0.3,
      off: [],
      unmeasured: [{ name: 'a', why: 'its answer takes 800 ms' }],
    })
    expect(skewOf([{ ...clock('a', 0), offset: undefined, error: 'no answer' }])).toEqual({
      seconds: undefined,
      off: [],
      unmeasured: [{ name: 'a', why: 'no answer' }],
    })
  })
})

describe('clocks', () => {
  const report = (host: string, offsetS: number, ntp: string) =>
    database.db.query(
      `insert into tabib.process (instance, host, what, waits, wait_p95_s, refused, clock_offset_s, clock_error_s, ntp)
       values ($1, $1, 'api', 0, 0, 0, $2, 0.001, $3)`,
      [host, offsetS, ntp],
    )

  test('of Postgres, Redis and NATS on one machine agree', async () => {
    const clocks = await allClocks(appWith())
    expect(clocks.map(({ name }) => name.split(' ')[0])).toEqual(['Postgres', 'Redis', 'NATS'])
    expect(skewOf(clocks)).toMatchObject({ seconds: expect.closeTo(0, 1), off: [] })
  })

  test('of hosts are told by their processes, by way of Postgres; who follows no NTP server is a finding', async () => {
    await report('pod-behind', 3, 'unsynchronised')
    await report('pod-right', 0, 'synchronised')
    try {
      const clocks = await podClocks(appWith())
      expect(skewOf(clocks).off).toMatchObject([
        { name: 'host pod-behind', host: 'pod-behind', bySeconds: expect.closeTo(-3, 1) },
      ])
      const ntp = { state: 'unknown', by: null, detail: 'nobody answers' } as const
      const findings = judgeClocks(clocks, { ntp, step: undefined })
      expect(findings.map(({ id, object, severity, fix }) => [id, object, severity, fix])).toEqual([
        ['clocks/skew', 'host pod-behind', 'error', 'ssh pod-behind sudo chronyc makestep'],
        ['clocks/ntp', 'this host', 'warning', expect.stringContaining('timedatectl')],
        ['clocks/ntp', 'host pod-behind', 'error', 'sudo apt-get install -y chrony'],
      ])
      await expect(planStep(appWith())).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        suggestions: ['ssh pod-behind sudo chronyc makestep', 'docs/cluster.md'],
      })
      expect(await planStep(appWith({ clockStep: ['ssh', '{host}', 'makestep'] }))).toEqual({
        hosts: [{ host: 'pod-behind', argv: ['ssh', 'pod-behind', 'makestep'] }],
      })
      await database.db.query(`update tabib.process set host = '-oProxyCommand=x' where host = 'pod-behind'`)
      await expect(planStep(appWith({ clockStep: ['ssh', '{host}'] }))).rejects.toMatchObject({
        code: 'USAGE',
      })
    } finally {
      await database.db.query('delete from tabib.process')
    }
  })

  test('that agree are not set', async () => {
    await expect(planStep(appWith({ clockStep: ['false'] }))).rejects.toMatchObject({ code: 'NOT_NEEDED' })
  })

  test('of each NATS server are read at its monitoring port; one that lies or is silent takes nobody down', async () => {
    const body = { text: () => '' }
    const server = createServer((_, response) => response.end(body.text()))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const natsClock = async () => (await allClocks(appWith({ natsMonitorUrls: [url] }))).at(-1)!
    try {
      body.text = () => JSON.stringify({ now: new Date(Date.now() + 2_000).toISOString() })
      expect((await natsClock()).offset?.offsetMs).toBeCloseTo(2_000, -2)
      body.text = () => '<html>'
      expect(await natsClock()).toMatchObject({ offset: undefined, error: expect.stringContaining('JSON') })
      body.text = () => '{"now":"soon"}'
      expect(await natsClock()).toMatchObject({ error: 'what answers is no NATS monitoring port' })
    } finally {
      server.close()
    }
    expect(await natsClock()).toMatchObject({ offset: undefined, error: expect.any(String) })
  })
})

test('NTP is what chrony, or systemd of the kernel’s clock, says of it', async () => {
  const kept =
    'A29FC87B,162.159.200.123,3,1796029000.123,0.000012345,0.000001,0.00002,-12.3,0.001,0.05,0.012,0.0005,64.2,Normal\n'
  expect(chronyState(kept)).toMatchObject({
    state: 'synchronised',
    detail: expect.stringContaining('0.012 ms'),
  })
  const lost = '00000000,,0,0.000000000,0.000000000,0.0,0.0,0.000,0.000,0.000,1.0,1.0,0.0,Not synchronised\n'
  expect(chronyState(lost)).toMatchObject({ state: 'unsynchronised' })
  expect(chronyState('506 Cannot talk to daemon\n')).toBeUndefined()
  expect(systemdState('NTP=yes\nNTPSynchronized=yes\n')).toMatchObject({ state: 'synchronised' })
  expect(systemdState('NTP=yes\nNTPSynchronized=no\n')).toMatchObject({
    detail: 'NTP is on and has not synchronised',
  })
  expect(systemdState('NTP=no\nNTPSynchronized=no\n')).toMatchObject({ state: 'unsynchronised' })
  expect(systemdState('')).toBeUndefined()
  expect(['synchronised', 'unsynchronised', 'unknown']).toContain((await readNtp()).state)
})
