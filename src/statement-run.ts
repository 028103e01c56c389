import { availableParallelism } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { type Command, Flags } from '@oclif/core'
import { TabibCommand } from './command.ts'
import { findRun, type Run, type Shortfall, shortfallsOf } from './domain/statements/runs.ts'
import { EXIT, TabibError } from './errors.ts'
import { openProgress, type Progress } from './progress.ts'
import { counted, details, mark, table } from './render.ts'

export const workFlags = {
  concurrency: Flags.integer({
    min: 1,
    max: 256,
    helpValue: '<n>',
    description:
      'processes that render on this host, each held to statements.memoryLimit; one for each core when left out',
  }),
}

// A server that starts again is waited for.
const PATIENCE_MS = 60_000
const LOOK_EVERY_MS = 500
// To put the accounts of a large run on record takes a moment.
const LOOKS_PATIENTLY = 6
const SHORTFALLS_SHOWN = 50

/** Base of the commands that work on a run until it has finished, and show how far it is. */
export abstract class StatementRunCommand<T extends typeof Command> extends TabibCommand<T> {
  /** Works on a run until it has finished, and tells what it came to. */
  protected async finish(runId: string): Promise<void> {
    const run = await this.work(runId)
    const app = await this.openApp()
    const shortfalls = await shortfallsOf(app, runId, SHORTFALLS_SHOWN)
    this.succeed({
      result: { ...run, shortfalls },
      status: run.failed > 0 ? 'findings' : 'ok',
      warnings: run.basic > 0 ? [`${counted(run.basic, 'account')} got a basic PDF`] : [],
      text: () =>
        `${mark(run.failed > 0 ? 'failed' : 'ok')} statements of ${run.tenant} for ${run.period}\n\n${runText(run, shortfalls)}`,
    })
  }

  /**
   * Works on a run until it has finished.
   * @throws TabibError what kept it from that for a minute, or for good; INTERRUPTED, TIMED_OUT.
   */
  protected async work(runId: string): Promise<Run> {
    const app = await this.openApp()
    this.resumeWith = `tabib statement resume ${runId}`
    const [{ workRuns }, { thisInstance }] = await Promise.all([
      import('./domain/statements/work-runs.ts'),
      import('./worker.ts'),
    ])
    const { concurrency = availableParallelism() } = this.flags as { concurrency?: number }
    const givenUp = new AbortController()
    const progress = openProgress({ quiet: this.flags.quiet })
    let troubledSince: number | undefined
    const onTrouble = (error: unknown) => {
      if (givenUp.signal.aborted) return
      const isFirst = troubledSince === undefined
      troubledSince ??= performance.now()
      if (!passes(error) || performance.now() - troubledSince >= PATIENCE_MS) givenUp.abort(error)
      else if (isFirst) progress.say(`${(error as Error).message}: waiting for a minute at most`)
    }
    const done = new AbortController()
    const shown = this.#show(runId, { progress, done: done.signal }, () => {
      troubledSince = undefined
    })
    try {
      await workRuns(app, {
        runId,
        concurrency,
        holder: thisInstance(this.config.version).id,
        signal: AbortSignal.any([this.signal, givenUp.signal]),
        onTrouble,
      })
    } finally {
      done.abort()
      await shown
    }
    this.signal.throwIfAborted()
    if (givenUp.signal.aborted) throw resumable(givenUp.signal.reason, this.resumeWith)
    return findRun(app, runId)
  }

  /** Shows how far the run is until `done`. */
  async #show(
    runId: string,
    { progress, done }: { progress: Progress; done: AbortSignal },
    onAdvance: () => void,
  ): Promise<void> {
    const app = await this.openApp()
    let settled = -1
    let waited = 0
    while (!done.aborted) {
      // Postgres may be away for a while: then nothing is known, and nothing is shown.
      const run = await findRun(app, runId).catch(() => undefined)
      if (run?.state === 'waiting' && ++waited === LOOKS_PATIENTLY) {
        progress.say('waiting for transactions that may have been posting when the period ended')
      }
      if (run?.state === 'running') {
        const now = run.accounts - run.pending
        if (now > settled) onAdvance()
        settled = now
        const { basic, failed } = run
        const notes = [...(basic > 0 ? [`${basic} basic`] : []), ...(failed > 0 ? [`${failed} failed`] : [])]
        progress.at(now, run.accounts, notes.join(', '))
      }
      await delay(LOOK_EVERY_MS, undefined, { signal: done }).catch(() => {})
    }
    progress.end()
  }
}

/** Whether what happened may be over soon. */
function passes(error: unknown): boolean {
  return (
    error instanceof TabibError && error.exitCode === EXIT.unreachable && error.code !== 'RENDERER_FAILED'
  )
}

function resumable(error: unknown, resume: string): unknown {
  if (error instanceof TabibError) error.suggestions.push(resume)
  return error
}

/** A run and what fell short in it, for people. */
export function runText(run: Run, shortfalls: Shortfall[]): string {
  const {
    id,
    tenant,
    period,
    state,
    accounts,
    rendered,
    basic,
    failed,
    pending,
    deaths,
    startedAt,
    finishedAt,
  } = run
  const text = details({
    run: id,
    tenant,
    period,
    state,
    accounts: `${accounts}: ${rendered} rendered, ${basic} basic, ${failed} failed, ${pending} pending`,
    ...(deaths > 0 && { renderers: `${counted(deaths, 'death')}, each account tried again` }),
    started: startedAt,
    finished: finishedAt,
  })
  if (shortfalls.length === 0) return text
  const all = failed + basic
  const more = all > shortfalls.length ? `\nand ${all - shortfalls.length} more: --limit ${all}` : ''
  return `${text}\n\n${table(shortfalls, ['accountId', 'state', 'attempts', 'reason', 'detail'])}${more}`
}
