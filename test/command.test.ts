import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../src/package-root.ts'

const TABIB = join(packageRoot(), 'bin/run.js')
const FIXTURE = join(packageRoot(), 'test/fixture/run.js')

let emptyFolder: string
beforeAll(async () => {
  emptyFolder = await mkdtemp(join(tmpdir(), 'tabib-command-'))
})
afterAll(() => rm(emptyFolder, { recursive: true }))

// No configuration of whoever runs the tests may reach the command.
const environment = (extra: Record<string, string> = {}) => ({
  PATH: process.env.PATH ?? '',
  HOME: emptyFolder,
  ...extra,
})

function run(bin: string, argv: string[], env: Record<string, string> = {}) {
  return execa(process.execPath, [bin, ...argv], {
    cwd: emptyFolder,
    env: environment(env),
    extendEnv: false,
    reject: false,
    stdin: 'ignore',
  })
}
const tabib = (argv: string[], env?: Record<string, string>) => run(TABIB, argv, env)
const fixture = (argv: string[], env?: Record<string, string>) => run(FIXTURE, argv, env)

describe('usage', () => {
  test('a misspelt command exits 2 and names the one that was meant', async () => {
    const { exitCode, stdout, stderr } = await tabib(['audit', 'verfy'])
    expect(exitCode).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toContain('there is no command "audit verfy"')
    expect(stderr).toContain('Try: tabib audit verify')
  })

  test.each([['--help'], ['-h'], ['help']])('%s is help', async (word) => {
    const { exitCode, stdout } = await tabib(
      word === 'help' ? ['help', 'audit', 'list'] : ['audit', 'list', word],
    )
    expect([exitCode, stdout]).toEqual([0, expect.stringContaining('$ tabib audit list')])
  })

  test('what is on stdin is no argument', async () => {
    const { exitCode, stderr } = await execa(process.execPath, [TABIB, 'ledger', 'unfreeze'], {
      ...{ cwd: emptyFolder, env: environment(), extendEnv: false, reject: false },
      input: '01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90\n',
    })
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining('Missing 1 required arg')])
  })

  test('an unknown command prints the error envelope with --json, and nothing else', async () => {
    const { exitCode, stdout, stderr } = await tabib(['frobnicate', '--json'])
    expect(exitCode).toBe(2)
    expect(stderr).toBe('')
    expect(JSON.parse(stdout)).toMatchObject({
      schemaVersion: 1,
      runId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      status: 'error',
      error: { code: 'USAGE', exitCode: 2, actions: ['tabib --help'], runbook: null, retryable: false },
    })
  })

  test('an unknown flag exits 2 and names the one that was meant', async () => {
    const { exitCode, stderr } = await tabib(['audit', 'list', '--actr', 'ahmad'])
    expect(exitCode).toBe(2)
    expect(stderr).toContain('--actr')
    expect(stderr).toContain('tabib audit list --actor')
    expect(stderr).not.toMatch(/^\s+at /m)
  })

  test('a value that cannot be read exits 2 without oclif’s or Node’s words around it', async () => {
    const { exitCode, stderr } = await tabib(['audit', 'list', '--since', 'yesterday'])
    expect(exitCode).toBe(2)
    expect(stderr).toMatch(/^× --since: "yesterday" is not a duration/)
  })

  test('a flag after -- is an argument', async () => {
    const { exitCode, stdout, stderr } = await tabib(['incident', 'show', '--', '--json'])
    expect(exitCode).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toContain('no Postgres is configured')
  })

  test('a topic alone shows its commands and exits 0', async () => {
    const { exitCode, stdout } = await tabib(['audit'])
    expect(exitCode).toBe(0)
    expect(stdout).toContain('audit verify')
  })
})

describe('configuration', () => {
  test('every problem is reported at once, with its path', async () => {
    const config = join(emptyFolder, 'broken.yaml')
    await writeFile(
      config,
      'currentContext: x\ncontexts:\n  x:\n    production: maybe\n    nats: { url: "http://n" }\n',
    )
    const { exitCode, stdout } = await tabib(['audit', 'list', '--json'], { TABIB_CONFIG: config })
    expect(exitCode).toBe(2)
    const { error } = JSON.parse(stdout)
    expect(error.code).toBe('CONFIG_INVALID')
    const paths = error.context.problems.map(({ path }: { path: string }) => path.replace(/^.*: /, ''))
    expect(paths).toEqual(expect.arrayContaining(['contexts.x.production', 'contexts.x.nats.url']))
  })

  test('a password on the command line is refused and not repeated', async () => {
    const { exitCode, stdout, stderr } = await tabib([
      'audit',
      'list',
      '--database-url',
      'postgres://a:s3cret@h/d',
    ])
    expect(exitCode).toBe(2)
    expect(stdout + stderr).toContain('--database-url-file')
    expect(stdout + stderr).not.toContain('s3cret')
  })

  test('a server that is away exits 3, is named, and can be retried', async () => {
    const { exitCode, stdout } = await tabib(['audit', 'list', '--json'], {
      TABIB_DATABASE_URL: 'postgres://tabib:s3cret@127.0.0.1:1/tabib',
    })
    expect(exitCode).toBe(3)
    expect(stdout).not.toContain('s3cret')
    expect(JSON.parse(stdout).error).toMatchObject({
      code: 'POSTGRES_UNREACHABLE',
      message: expect.stringContaining('127.0.0.1:1/tabib'),
      retryable: true,
    })
  })
})

describe('failure', () => {
  test('a bug exits 70 with one line, no stack and no password', async () => {
    const { exitCode, stdout, stderr } = await fixture(['bug'])
    expect(exitCode).toBe(70)
    expect(stdout).toBe('')
    expect(stderr).toContain('did not expect')
    expect(stderr).toContain('--debug')
    expect(stderr).not.toMatch(/^\s+at /m)
    expect(stderr).not.toContain('hunter2')
  })

  test('--debug adds the stack on stderr, and stdout stays one envelope', async () => {
    const { exitCode, stdout, stderr } = await fixture(['bug', '--json', '--debug'])
    expect(exitCode).toBe(70)
    expect(JSON.parse(stdout).error.code).toBe('BUG')
    expect(stderr).toMatch(/^\s+at /m)
    expect(stdout + stderr).not.toContain('hunter2')
  })

  test('--timeout ends a wait with 8', async () => {
    const { exitCode, stdout } = await fixture(['wait', '--timeout', '100ms', '--json'])
    expect(exitCode).toBe(8)
    expect(JSON.parse(stdout).error).toMatchObject({ code: 'TIMED_OUT', retryable: true })
  })

  test.each([[['wait']], [['wait', '--orderly']]])(
    'SIGINT ends `%s` with 130 and prints what resumes it',
    async (argv) => {
      const child = spawn(process.execPath, [FIXTURE, ...argv], { cwd: emptyFolder, env: environment() })
      let stderr = ''
      for await (const chunk of child.stderr) {
        stderr += chunk
        if (String(chunk).includes('waiting')) child.kill('SIGINT')
      }
      if (child.exitCode === null) await once(child, 'exit')
      expect(child.exitCode).toBe(130)
      expect(stderr).toContain('tabib wait --resume 7')
      expect(stderr.includes('put away')).toBe(argv.includes('--orderly'))
    },
  )

  test('a reader that goes away early is no error', async () => {
    const { exitCode, stderr } = await execa(
      'bash',
      ['-c', `set -o pipefail; "${process.execPath}" "${TABIB}" audit list --help | true`],
      {
        cwd: emptyFolder,
        reject: false,
      },
    )
    expect(exitCode).toBe(0)
    expect(stderr).toBe('')
  })
})

describe('danger', () => {
  const production = { TABIB_NATS_URL: 'nats://nats.example:4222' }

  test('a moderate operation wants --yes where nobody can be asked', async () => {
    const refused = await fixture(['danger'])
    expect(refused.exitCode).toBe(5)
    expect(refused.stderr).toContain('--yes')
    expect((await fixture(['danger', '--yes'])).exitCode).toBe(0)
  })

  test('in production --yes is not enough: the context’s name is wanted', async () => {
    const refused = await fixture(['danger', '--yes'], production)
    expect(refused.exitCode).toBe(5)
    expect(refused.stderr).toContain('--confirm env')
    expect((await fixture(['danger', '--confirm', 'env'], production)).exitCode).toBe(0)
  })

  test('a severe operation wants the target’s name and a reason, and --yes never does', async () => {
    const refused = await fixture(['danger', '--severe', '--yes'])
    expect(refused.exitCode).toBe(5)
    expect(refused.stderr).toContain('--confirm billing')
    expect((await fixture(['danger', '--severe', '--confirm', 'communication'])).exitCode).toBe(5)

    const unexplained = await fixture(['danger', '--severe', '--confirm', 'billing', '--json'])
    expect(unexplained.exitCode).toBe(5)
    expect(JSON.parse(unexplained.stdout).error).toMatchObject({ code: 'REASON_REQUIRED' })

    const done = await fixture(['danger', '--severe', '--confirm', 'billing', '--reason', 'sent twice'])
    expect(done).toMatchObject({ exitCode: 0, stdout: 'done: sent twice' })
  })

  test('a severe operation in production wants target and context', async () => {
    const argv = ['danger', '--severe', '--reason', 'why', '--confirm', 'billing']
    expect((await fixture(argv, production)).exitCode).toBe(5)
    expect((await fixture([...argv, '--confirm', 'env'], production)).exitCode).toBe(0)
  })

  test('at a terminal the target’s name is typed, and anything else changes nothing', async () => {
    const exitCodes = await Promise.all([
      atTerminal(['danger', '--severe'], ['billing\n', 'sent twice\n']),
      atTerminal(['danger', '--severe'], ['billing\nsent twice\n']),
      atTerminal(['danger', '--severe'], ['y\n']),
      atTerminal(['danger', '--no-input'], []),
      atTerminal(['danger'], ['y\n']),
      // Ctrl-D, Ctrl-C
      atTerminal(['danger'], ['\x04']),
      atTerminal(['danger'], ['\x03']),
    ])
    expect(exitCodes).toEqual([0, 0, 5, 5, 0, 5, 130])
  })

  // script(1) of util-linux gives the command a terminal; each answer is typed when its prompt has come.
  async function atTerminal(argv: string[], answers: string[]): Promise<number | undefined> {
    const line = [process.execPath, FIXTURE, ...argv].map((word) => `'${word}'`).join(' ')
    const terminal = execa('script', ['-qec', line, '/dev/null'], {
      cwd: emptyFolder,
      env: environment({ TERM: 'dumb' }),
      extendEnv: false,
      reject: false,
    })
    const left = [...answers]
    terminal.stdout.on('data', (chunk: Buffer) => {
      if (!/(: |\[y\/N\] )$/.test(String(chunk))) return
      const answer = left.shift()
      if (answer !== undefined) terminal.stdin.write(answer)
    })
    return (await terminal).exitCode
  }
})

describe('plans', () => {
  test('--dry-run prints a hash, --apply takes it, and a world that moved is refused with 6', async () => {
    const dry = await fixture(['plan', '--dry-run', '--json'])
    const { planHash } = JSON.parse(dry.stdout).result
    expect(planHash).toMatch(/^[0-9a-f]{64}$/)
    expect((await fixture(['plan', '--apply', planHash])).stdout).toBe(`applied ${planHash}`)

    // What is printed is pasted as it stands, whatever was given as a word of the shell or as a time ago.
    for (const since of [['--since', '2h'], ['--since=30m']]) {
      const { stdout } = await fixture(['plan', ...since, '--world', "today's world", '--dry-run'])
      const line = stdout.split('\n').at(-1)!
      const pasted = await execa(
        'sh',
        ['-c', `tabib() { "${process.execPath}" "${FIXTURE}" "$@"; }; ${line}`],
        {
          ...{ cwd: emptyFolder, env: environment(), extendEnv: false, reject: false },
        },
      )
      expect([pasted.exitCode, pasted.stdout]).toEqual([0, expect.stringMatching(/^applied [0-9a-f]{64}$/)])
    }

    const stale = await fixture(['plan', '--apply', planHash, '--world', 'moved'])
    expect(stale.exitCode).toBe(6)
    expect(stale.stderr).toContain('--world moved --dry-run')
  })

  test('warnings go to stderr, or into the envelope', async () => {
    expect((await fixture(['plan'])).stderr).toContain('a warning')
    expect((await fixture(['plan', '--quiet'])).stderr).toBe('')
    const { stdout, stderr } = await fixture(['plan', '--json'])
    expect(stderr).toBe('')
    expect(JSON.parse(stdout)).toMatchObject({ schemaVersion: 1, status: 'ok', warnings: ['a warning'] })
  })
})

describe('a check', () => {
  const waivers = (expires: string) =>
    `waivers: [{ check: fixture/found, object: thing, owner: maryam, reason: known, expires: ${expires} }]`

  test('exits 1 for an error that nobody waived, and for nothing less', async () => {
    const exitOf = async (...argv: string[]) => (await fixture(['check', '--severity', ...argv])).exitCode
    const waived = join(emptyFolder, 'waived.yaml')
    const expired = join(emptyFolder, 'expired.yaml')
    await writeFile(waived, waivers('2999-01-01'))
    await writeFile(expired, waivers('2020-01-01'))
    const exits = [
      exitOf('error', '--output', 'junit'),
      exitOf('warning', '--short'),
      exitOf('none'),
      exitOf('error', '--waivers', waived),
      exitOf('none', '--waivers', expired),
    ]
    expect(await Promise.all(exits)).toEqual([1, 0, 0, 0, 1])
  })

  test('prints one envelope with --output json, also where it fails', async () => {
    const { stdout } = await fixture(['check', '--severity', 'error', '--output', 'json'])
    expect(JSON.parse(stdout)).toMatchObject({
      status: 'findings',
      result: { subject: 'fixture', findings: [{ id: 'fixture/found' }] },
    })
    const failed = await fixture(['check', '--severity', 'unreachable', '--output=json'])
    expect(failed.exitCode).toBe(3)
    expect(failed.stderr).toBe('')
    expect(JSON.parse(failed.stdout).error.code).toBe('POSTGRES_UNREACHABLE')
  })
})
