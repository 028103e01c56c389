import { mkdir, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { Flags } from '@oclif/core'
import type { BuiltMode } from '../catalog/failure-mode.ts'
import { catalog } from '../catalog/index.ts'
import { TabibCommand } from '../command.ts'
import type { Rehearsal } from '../drill/rehearsal.ts'
import { TabibError } from '../errors.ts'
import { details, mark, paint } from '../render.ts'

export default class Up extends TabibCommand<typeof Up> {
  static override summary =
    'The main job on servers of its own: a platform, the workers, a fault, and what was lost.'
  static override description =
    'Starts a private Postgres, NATS JetStream and Redis on free loopback ports, fills them with a clinic group, runs ' +
    'the workers, kills NATS and the relay on the way, and counts what was committed against what was delivered. ' +
    'Everything is taken down again at the end; with --watch it stays until Ctrl-C.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --scale 0.1',
    '<%= config.bin %> <%= command.id %> --watch',
  ]
  static override flags = {
    scale: Flags.custom<number>({
      parse: async (text) => {
        const scale = Number(text)
        if (scale > 0 && scale <= 100) return scale
        throw new TabibError(
          'USAGE',
          `"${text}" is no scale; write a number above 0 and up to 100 (1 is about 100,000 events)`,
        )
      },
    })({ default: 1, helpValue: '<n>', description: '1 is about 100,000 events' }),
    seed: Flags.integer({
      default: 1,
      helpValue: '<n>',
      description: 'the same seed makes the same platform',
    }),
    watch: Flags.boolean({ description: 'keep servers and workers running until Ctrl-C' }),
    dir: Flags.string({ default: '.tabib/up', helpValue: '<dir>', description: 'where the summary goes' }),
  }

  async run(): Promise<void> {
    const { assertSandboxAllowed, createWorld } = await import('../sandbox/world.ts')
    assertSandboxAllowed(await this.loadConfig())
    const { rehearsePlatform } = await import('../drill/rehearsal.ts')
    const { workers } = await import('../workers/index.ts')
    const { scale, seed } = this.flags
    const startedAt = performance.now()
    const say = (line: string) => {
      const atS = ((performance.now() - startedAt) / 1_000).toFixed(1).padStart(5)
      this.note(`${mark('ok', process.stderr)} ${paint('dim', `${atS} s`, process.stderr)}  ${line}`)
    }

    await using world = await createWorld()
    say('private Postgres, NATS JetStream and Redis are up on loopback, migrated')
    const result = await rehearsePlatform(world, {
      seed,
      scale,
      catalog: catalog.filter((mode): mode is BuiltMode => mode.state === 'built'),
      scheduled: workers.filter((worker) => 'everyMs' in worker.cadence).map(({ name }) => name),
      say,
      signal: this.signal,
    })
    const files = await this.#write(result, world.env)
    const ok = result.lost.length === 0 && result.firing.length === 0
    this.succeed({
      result: { ...result, files },
      status: ok ? 'ok' : 'findings',
      text: () => summary(result, files, startedAt),
    })
    if (!this.flags.watch) return
    await using _workers = await world.startWorkers(workers.map(({ name }) => name))
    this.note(`\nEverything runs until Ctrl-C. In another terminal:\n  . ${files.env}\n  npx tabib status`)
    await new Promise((resolve) => {
      this.signal.addEventListener('abort', resolve, { once: true })
    })
  }

  async #write(result: Rehearsal, env: Record<string, string>): Promise<{ summary: string; env: string }> {
    const { dir } = this.flags
    await mkdir(dir, { recursive: true })
    const files = { summary: join(dir, 'summary.json'), env: join(dir, 'env') }
    await writeFile(files.summary, `${JSON.stringify(result, null, 2)}\n`)
    const exports = Object.entries(env).map(([name, value]) => `export ${name}='${value}'`)
    // The sandbox's passwords: for this user alone.
    await writeFile(files.env, `${exports.join('\n')}\n`, { mode: 0o600 })
    return { summary: relative('.', files.summary), env: relative('.', files.env) }
  }
}

function summary(result: Rehearsal, files: { summary: string }, startedAt: number): string {
  const { platform, lost, firing } = result
  return [
    '',
    details({
      events: `${platform.events} committed, relayed at ${result.relayedPerS}/s with the faults among them`,
      faults: result.faults.map(({ what, backS }) => `${what} (${backS.toFixed(1)} s)`).join('; '),
      charges: `${result.charges} for ${result.sessionsEnded} ended sessions`,
      lost: lost.length === 0 ? `${mark('ok')} nothing` : `${mark('failed')} ${lost.join('; ')}`,
      status:
        firing.length === 0
          ? `${mark('ok')} no failure mode fires`
          : `${mark('failed')} ${firing.join(', ')}`,
      took: `${((performance.now() - startedAt) / 1_000).toFixed(0)} s`,
      summary: files.summary,
    }),
    '',
    'Next:',
    '  npx tabib drill run billing/FM-17     break it yourself',
    '  npx tabib explain billing/FM-17       read the card',
    '  npx tabib up --watch                  keep it running and look around',
  ].join('\n')
}
