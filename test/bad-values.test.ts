import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../src/package-root.ts'
import { runJson } from './support/line.ts'

const UUID = '01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90'

/** Whoever connects ends with 3. */
const NOWHERE = {
  TABIB_DATABASE_URL: 'postgres://tabib@127.0.0.1:1/tabib',
  TABIB_NATS_URL: 'nats://127.0.0.1:1',
  TABIB_REDIS_URL: 'redis://127.0.0.1:1',
  TABIB_PATRONI_URL: 'http://127.0.0.1:6',
}

interface Named {
  name: string
  required?: boolean
  options?: string[]
  helpGroup?: string
}
type Manifest = {
  commands: Record<
    string,
    { id: string; args: Record<string, Named>; flags: Record<string, Named & { type: string }> }
  >
}
const { commands }: Manifest = JSON.parse(await readFile(join(packageRoot(), 'oclif.manifest.json'), 'utf8'))

/** A value that is right in its form, for what must be given besides. */
const fitting = ({ name, options }: Named): string =>
  options?.[0] ?? { purpose: 'join-token', since: '1h', period: '2026-10' }[name] ?? UUID

describe('a value that is empty ends with 2 and asks no server', () => {
  test.each(Object.values(commands).map((command) => [command.id.replaceAll(':', ' '), command] as const))(
    'tabib %s',
    async (_, { id, args, flags }) => {
      const given = Object.values(args).filter(({ required }) => required)
      const options = Object.values(flags).filter(
        ({ type, helpGroup }) => type === 'option' && (helpGroup !== 'GLOBAL' || id === 'outbox:status'),
      )
      const line = (empty: Named) => [
        ...id.split(':'),
        ...(empty.name in args ? Object.values(args) : given).map((one) =>
          one === empty ? '' : fitting(one),
        ),
        ...options
          .filter((one) => one === empty || one.required)
          .flatMap((one) => [`--${one.name}`, one === empty ? '' : fitting(one)]),
      ]
      for (const empty of [...Object.values(args), ...options]) {
        const { exitCode, envelope } = await runJson(line(empty), NOWHERE)
        expect([empty.name, exitCode, envelope.error.code]).toEqual([empty.name, 2, expect.anything()])
      }
    },
  )
})

describe('what cannot be right whatever the servers hold ends with 2 and asks none of them', () => {
  test.each([
    ['audit list --run nonsense', 'is no UUID'],
    ['dlq list --tenant nonsense', 'is no UUID'],
    ['dlq list --limit ۱۲', 'Expected an integer'],
    ['drill run nonsense', 'no failure mode "nonsense"'],
    [
      `erasure hold --tenant herat --patient ${UUID} --authority law --participant nonsense`,
      'there is no participant "nonsense"',
    ],
    ['erasure inventory --participant nonsense', 'participants are attachments, billing'],
    ['erasure list nonsense', 'is no UUID'],
    ['erasure release nonsense', 'is no UUID'],
    ['erasure replay nonsense', 'is no UUID'],
    ['incident ack nonsense', 'is no UUID'],
    ['incident resolve 99999999999999999999', 'is no UUID'],
    ['incident list --mode biling/FM-01', 'near it: billing/FM-01'],
    ['isolation check --waivers /nonexistent', 'ENOENT'],
    ['keys jwks --purpose ../x', 'is no purpose'],
    ['keys status --purpose Join-Token', 'is no purpose'],
    [`ledger reconcile ${UUID} --balance 1.5`, 'minor units'],
    ['ledger verify --waivers /nonexistent', 'ENOENT'],
    ['ledger verify --since 2026-02-30', 'is no time'],
    ['ledger verify --since 99999999999d', 'longer than a hundred years'],
    ['outbox status --timeout 25d', 'longer than anything waits'],
    ['outbox replay --service billing --id nonsense', 'is no UUID'],
    ['outbox replay --service billing --since 1h --until 2h', 'nothing lies between'],
    ['statement run --tenant herat --period nonsense', 'is no month'],
    ['statement run --tenant herat --period 2026-13', 'is no month'],
    ['statement run --tenant herat --period ۲۰۲۶-۱۰', 'is no month'],
    ['statement run --tenant herat --period 1405-07', 'is no Gregorian month'],
    [`token issue --service cashier --tenant ${UUID} --file /`, 'is there already'],
    ['up --scale 0', 'is no scale'],
    ['tenant go-live herat --waivers /nonexistent', 'ENOENT'],
  ])('tabib %s', async (line, words) => {
    const { exitCode, envelope } = await runJson(line.split(' '), NOWHERE)
    expect([exitCode, envelope.error.message]).toEqual([2, expect.stringContaining(words)])
  })
})
