import { hostname, userInfo } from 'node:os'
import { Command, Flags, type Interfaces } from '@oclif/core'
import type { Queryable } from './adapters/postgres/client.ts'
import type { App } from './app.ts'
import type { Config } from './config.ts'
import type { Asking } from './confirm.ts'
import type { Operation, OperationDetails } from './domain/audit/operation.ts'
import { EXIT, TabibError } from './errors.ts'
import {
  type FindingsReport,
  fails,
  type ReportFormat,
  renderReport,
  reportResult,
} from './findings-report.ts'
import { reportFlags } from './flags.ts'
import { nearest } from './nearest.ts'
import { asTabibError, type Envelope, hasFlag, mark, quote, reportError, toJson } from './render.ts'
import type { Waiver } from './waivers.ts'

/** A duration as `30s` or `15m`, in milliseconds. */
export const durationFlag = Flags.custom<number>({
  helpValue: '<duration>',
  // The schema library behind the configuration is loaded when a duration is given, not at every start.
  parse: async (text) => (await import('./config.ts')).parseDuration(text),
})

/** How long to wait for something: a timer of Node's that is set to more than 24 days goes off at once. */
export const waitFlag = Flags.custom<number>({
  helpValue: '<duration>',
  parse: async (text) => {
    const ms = (await import('./config.ts')).parseDuration(text)
    if (ms < 2 ** 31) return ms
    throw new TabibError('USAGE', `"${text}" is longer than anything waits: 24d at the most`)
  },
})

/** `--yes`, for what is dangerous to a moderate degree. */
export const moderate = {
  yes: Flags.boolean({ char: 'y', description: 'go ahead without asking', helpGroup: 'CONFIRMATION' }),
  confirm: Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: '<name>',
    description: "in a production context: the context's name",
    helpGroup: 'CONFIRMATION',
  }),
}

/** `--confirm <name>` and `--reason <text>`, for what cannot be undone; `--yes` does not exist here. */
export const severe = {
  confirm: Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: '<name>',
    description: "the target's name; in a production context once more, with the context's name",
    helpGroup: 'CONFIRMATION',
  }),
  reason: Flags.string({
    helpValue: '<text>',
    description: 'why, for the audit trail',
    helpGroup: 'CONFIRMATION',
  }),
  approval: Flags.string({
    helpValue: '<file>',
    description: "another operator's consent, from approval create",
    helpGroup: 'CONFIRMATION',
  }),
}

/** `--dry-run` and `--apply <plan hash>`, for what is planned before it is done. */
export const planned = {
  'dry-run': Flags.boolean({ description: 'print the plan and its hash, change nothing', helpGroup: 'PLAN' }),
  apply: Flags.string({
    helpValue: '<plan hash>',
    description: 'do exactly the plan with this hash; refused when the world has moved since',
    exclusive: ['dry-run'],
    helpGroup: 'PLAN',
  }),
}

/** What a command ends with when nothing failed. */
export interface Outcome {
  /** Data for machines: what `--json` puts into the envelope. */
  result: unknown
  /** What people read; called only without `--json`. Empty text prints nothing. */
  text: () => string
  /** `findings` exits 1, `partial` exits 7. */
  status?: Envelope['status']
  warnings?: string[]
}

type AppFor = 'operator' | 'owner' | 'relay' | 'server' | 'hurried'

type FlagsOf<T extends typeof Command> = Interfaces.InferredFlags<
  (typeof TabibCommand)['baseFlags'] & T['flags']
>
type ArgsOf<T extends typeof Command> = Interfaces.InferredArgs<T['args']>

/**
 * Base of every command: global flags, one envelope, one way to fail, danger, plans and audit (docs/cli.md).
 *
 * ```ts
 * export default class OutboxStatus extends TabibCommand<typeof OutboxStatus> {
 *   static override summary = '…'
 *   static override examples = ['<%= config.bin %> outbox status --service billing']
 *   static override flags = { service: Flags.option({ options: SERVICES })() }
 *
 *   async run(): Promise<void> {
 *     const app = await this.openApp()
 *     const result = await outboxStatus(app, this.flags)
 *     this.succeed({ result, text: () => table(result, ['service', 'pending']) })
 *   }
 * }
 * ```
 */
export abstract class TabibCommand<T extends typeof Command> extends Command {
  static override baseFlags = {
    json: Flags.boolean({ description: 'print one JSON envelope on stdout', helpGroup: 'GLOBAL' }),
    context: Flags.string({
      helpValue: '<name>',
      description: 'a named context of tabib.yaml; beats TABIB_*_URL',
      helpGroup: 'GLOBAL',
    }),
    'database-url': Flags.string({
      helpValue: '<url>',
      description: 'Postgres, without a password in it',
      exclusive: ['database-url-file'],
      helpGroup: 'GLOBAL',
    }),
    'database-url-file': Flags.string({
      helpValue: '<file>',
      description: 'file that holds the Postgres URL',
      helpGroup: 'GLOBAL',
    }),
    timeout: waitFlag({ description: 'give up after this time, exit 8', helpGroup: 'GLOBAL' }),
    quiet: Flags.boolean({ description: 'print no progress and no notes on stderr', helpGroup: 'GLOBAL' }),
    debug: Flags.boolean({ description: 'print stacks of errors', helpGroup: 'GLOBAL' }),
    'no-input': Flags.boolean({ description: 'never prompt', helpGroup: 'GLOBAL' }),
  }

  /** True for a command that stops itself on SIGINT and SIGTERM: a worker drains, `up` takes its servers down. */
  static handlesSignals = false

  /** Joins everything one run did: envelope, audit records, logs. */
  protected readonly runId: string = crypto.randomUUID()
  protected flags!: FlagsOf<T>
  protected args!: ArgsOf<T>
  /** The command that takes up this one after an interruption; set it as soon as there is something to resume. */
  protected resumeWith: string | undefined

  #waivers: readonly Waiver[] | undefined
  readonly #apps: Partial<Record<AppFor, Promise<App>>> = {}
  #config: Promise<Config> | undefined
  #timer: NodeJS.Timeout | undefined
  #signalWatched = false
  #reported = false
  readonly #stop = new AbortController()
  /** Rejects when running work is given up. */
  readonly #abandoned = rejectable()
  /** Rejects when the command is left, whatever still runs. */
  readonly #left = rejectable()
  #mutating = false

  /** Aborted by SIGINT, SIGTERM and `--timeout`; its reason is the error that the command will end with. */
  protected get signal(): AbortSignal {
    this.#signalWatched = true
    return this.#stop.signal
  }

  protected override async init(): Promise<void> {
    await super.init()
    const { args, flags } = await this.parse({
      flags: this.ctor.flags,
      baseFlags: (this.ctor as typeof TabibCommand).baseFlags,
      args: unfed(this.ctor.args),
      strict: this.ctor.strict,
    })
    this.flags = flags as FlagsOf<T>
    this.args = args as ArgsOf<T>
    refuseEmpty(args, flags)
    const { waivers } = flags as { waivers?: string }
    if (waivers !== undefined) {
      this.#waivers = await (await import('./waivers.ts')).readWaivers(waivers)
    }
    const timeoutMs = this.flags.timeout
    if (timeoutMs !== undefined) {
      const error = new TabibError('TIMED_OUT', `not done after ${timeoutMs / 1000} s`, { retryable: true })
      this.#timer = setTimeout(() => this.#abort(error), timeoutMs)
    }
  }

  /** The configuration, read once. @throws TabibError CONFIG_INVALID with every problem at once. */
  protected loadConfig(): Promise<Config> {
    this.#config ??= import('./config.ts').then(({ loadConfig }) =>
      loadConfig({
        context: this.flags.context,
        databaseUrl: this.flags['database-url'],
        databaseUrlFile: this.flags['database-url-file'],
      }),
    )
    return this.#config
  }

  /**
   * Configuration and clients, each opened when first touched; closed when the command ends. `owner` connects to
   * Postgres as the owner of the schemas, for `migrate` alone; `relay` never sends to NATS what it could not send at
   * once, as relaying wants it; `server` gives Postgres the few seconds that a caller waits, `hurried` half a second.
   */
  protected openApp(as: AppFor = 'operator'): Promise<App> {
    this.#apps[as] ??= (async () => {
      const config = await this.loadConfig()
      const { createApp } = await import('./app.ts')
      return createApp(as === 'owner' ? { ...config, databaseUrl: config.ownerDatabaseUrl } : config, {
        applicationName: `tabib ${this.commandName}`,
        onDisconnect: as === 'relay' ? 'fail' : 'resume',
        ...(as === 'server' ? { connectWithinMs: 3_000, answerWithinMs: 3_000 } : {}),
        ...(as === 'hurried' ? { connectWithinMs: 500, answerWithinMs: 500 } : {}),
      })
    })()
    return this.#apps[as]
  }

  /** Prints the outcome once: the envelope with `--json`, else the text. Sets the exit code. */
  protected succeed({ result, text, status = 'ok', warnings = [] }: Outcome): void {
    process.exitCode = { ok: EXIT.ok, findings: EXIT.findings, partial: EXIT.partial }[status]
    if (this.wantsJson) {
      const envelope: Envelope = { schemaVersion: 1, runId: this.runId, status, result, warnings }
      process.stdout.write(`${toJson(envelope)}\n`)
      return
    }
    const printed = text()
    if (printed !== '') process.stdout.write(`${printed}\n`)
    for (const warning of warnings) this.note(`${mark('warning', process.stderr)} ${warning}`)
  }

  /**
   * Ends a check: prints its report as `reportFlags` ask for it, less what `--waivers` waives where the command has that
   * flag. Exits 1 for a critical finding or an error that nobody waived; warnings and infos alone exit 0.
   */
  protected async report(report: FindingsReport): Promise<void> {
    const { output, short } = this.flags as { output: ReportFormat; short?: boolean }
    const judged = await this.waive(report)
    this.succeed({
      result: reportResult(judged),
      status: judged.findings.some(fails) ? 'findings' : 'ok',
      text: () => renderReport(judged, { format: output, short }),
    })
  }

  /** A report less what `--waivers` waives; the file was read before anything else was done. */
  protected async waive(report: FindingsReport): Promise<FindingsReport> {
    if (this.#waivers === undefined) return report
    const { applyWaivers } = await import('./waivers.ts')
    return applyWaivers(report, this.#waivers)
  }

  /** One line for people on stderr; nothing with `--quiet`. */
  protected note(line: string): void {
    if (!this.flags?.quiet) process.stderr.write(`${line}\n`)
  }

  protected get wantsJson(): boolean {
    if (hasFlag(this.argv, '--json')) return true
    // A check's `--output json` is the same envelope, whatever becomes of the run.
    const printsReport = this.ctor.flags?.output === reportFlags.output
    return printsReport && /(^| )--output[ =]json( |$)/.test(this.argv.join(' '))
  }

  /** Who acts, for the audit trail: TABIB_ACTOR, else user@host. Whoever it says, until `proveActor`. */
  protected get actor(): string {
    return process.env.TABIB_ACTOR || `${userInfo().username}@${hostname()}`
  }

  /** The command as it is written in the audit trail: `dlq redrive`. */
  protected get commandName(): string {
    return (this.id ?? '').replaceAll(':', ' ')
  }

  /**
   * Asks before something that can be undone with effort: `--yes` or a prompt; a production context wants its name.
   * @throws TabibError CONFIRMATION_REQUIRED when nobody can be asked, or the answer is no.
   */
  protected async confirmModerate(what: string): Promise<void> {
    const { confirmModerate } = await import('./confirm.ts')
    await confirmModerate(what, await this.#asking())
  }

  /**
   * Asks before something that cannot be undone: the target's name typed or given as `--confirm`, and a reason, which
   * it returns. A production context wants its own name as well.
   * @throws TabibError CONFIRMATION_REQUIRED, REASON_REQUIRED
   */
  protected async confirmSevere(target: string, what: string): Promise<{ reason: string }> {
    const { confirmSevere } = await import('./confirm.ts')
    return confirmSevere(target, what, await this.#asking())
  }

  /**
   * Runs work that changes something between two audit records: `before`, and `after` with what became of it.
   * Failing work is recorded as failed and its error thrown on.
   */
  protected async mutate<R>(details: OperationDetails, work: () => Promise<R>): Promise<R> {
    const { db, config } = await this.openApp()
    const { auditOperation } = await import('./domain/audit/operation.ts')
    return auditOperation(db, await this.#operation(config, details), () => this.#whileWanted(work))
  }

  /**
   * As `mutate`, for a severe operation: nobody else may run one on the same target meanwhile, and an approval that
   * is given, or that the context or `twoPeople` demands, must hold for this plan, and be another's than the operator's
   * who acts and proves it.
   * @throws TabibError LOCKED naming who holds the target; APPROVAL_REQUIRED, APPROVAL_INVALID, OPERATOR_UNPROVED.
   */
  protected async mutateAlone<R>(
    target: string,
    details: OperationDetails & { planHash: string },
    work: () => Promise<R>,
    { twoPeople }: { twoPeople?: true } = {},
  ): Promise<R> {
    const { db, config } = await this.openApp()
    const { auditOperation, holdTarget } = await import('./domain/audit/operation.ts')
    const operation = await this.#operation(config, details)
    const approval = await this.#approval(config, details.planHash, twoPeople)
    if (approval !== undefined) operation.actorProof = await this.proveActor(details.planHash)
    await using _lock = await holdTarget(db, { target, ...operation })
    if (approval !== undefined) {
      operation.approver = await this.#approver(db, operation, approval)
      operation.approval = approval.trim()
    }
    return await auditOperation(db, operation, () => this.#whileWanted(work))
  }

  /**
   * Handles `--dry-run` and `--apply` for a plan that was just made.
   * @returns the plan's hash when it is to be applied; undefined when it was only printed.
   * @throws TabibError PLAN_STALE when `--apply` names another plan than this one.
   */
  protected async settlePlan(plan: unknown, text: () => string): Promise<string | undefined> {
    const { planHash } = await import('./domain/audit/canonical-json.ts')
    const hash = planHash(plan)
    const flags = this.flags as { 'dry-run'?: boolean; apply?: string }
    const again = this.#again()
    if (flags['dry-run']) {
      this.succeed({
        result: { plan, planHash: hash },
        text: () =>
          `${text()}\n\nPlan ${hash}. Nothing was changed. To apply it:\n  ${again} --apply ${hash}`,
      })
      return undefined
    }
    if (flags.apply !== undefined && flags.apply !== hash) {
      throw new TabibError(
        'PLAN_STALE',
        `the plan is now ${hash}, not ${flags.apply}: what it would change has moved`,
        {
          suggestions: [`${again.replace(/ --apply[ =]\S+/, '')} --dry-run`],
          context: { planHash: hash },
        },
      )
    }
    return hash
  }

  /** This command line to be pasted, less `--dry-run`; a time that was given as `2h` is the moment that it meant. */
  #again(): string {
    const moments = Object.entries(this.flags as Record<string, unknown>).flatMap(([name, value]) =>
      value instanceof Date ? [[`--${name}`, value.toISOString()] as const] : [],
    )
    const words = this.argv
      .filter((word) => word !== '--dry-run')
      .map((word, i, all) => {
        const given = moments.find(([flag]) => word.startsWith(`${flag}=`) || all[i - 1] === flag)
        return given === undefined ? word : word.startsWith('--') ? given.join('=') : given[1]
      })
    return [this.config.bin, this.commandName, ...words.map(quote)].join(' ')
  }

  protected override async _run<R>(): Promise<R> {
    const onSignal = (signal: NodeJS.Signals) => {
      const resume = this.resumeWith === undefined ? [] : [this.resumeWith]
      this.#abort(
        new TabibError('INTERRUPTED', `interrupted by ${signal}`, { suggestions: resume, retryable: true }),
      )
    }
    if (!(this.ctor as typeof TabibCommand).handlesSignals) {
      process.on('SIGINT', onSignal)
      process.on('SIGTERM', onSignal)
    }
    try {
      return await Promise.race([super._run<R>(), this.#left.promise])
    } catch (error) {
      this.#report(error)
      return undefined as R
    } finally {
      clearTimeout(this.#timer)
      process.off('SIGINT', onSignal)
      process.off('SIGTERM', onSignal)
    }
  }

  protected override async catch(thrown: unknown): Promise<void> {
    this.#report(thrown)
  }

  protected override async finally(): Promise<void> {
    for (const opening of Object.values(this.#apps)) {
      const app = await opening.catch(() => undefined)
      await app?.[Symbol.asyncDispose]()
    }
  }

  // Work that watches the signal gets time to end in order; all other work is given up at once. What was being changed
  // gets time for its audit record. A second signal waits for nothing.
  #abort(reason: TabibError): void {
    const isFirst = !this.#stop.signal.aborted
    this.#stop.abort(reason)
    const orderlyMs = isFirst && this.#signalWatched ? 5_000 : 0
    const recordMs = isFirst && this.#mutating ? 3_000 : 0
    setTimeout(() => this.#abandoned.reject(reason), orderlyMs)
    setTimeout(() => this.#left.reject(reason), orderlyMs + recordMs)
  }

  async #whileWanted<R>(work: () => Promise<R>): Promise<R> {
    this.#mutating = true
    return await Promise.race([work(), this.#abandoned.promise])
  }

  #report(thrown: unknown): void {
    if (this.#reported) return
    this.#reported = true
    const error = asTabibError(thrown)
    if (error.code === 'USAGE') error.suggestions.push(...this.#usageHints(thrown))
    process.exitCode = error.exitCode
    reportError(error, { argv: this.argv, runId: this.runId, json: this.wantsJson })
  }

  #usageHints(thrown: unknown): string[] {
    const command = `${this.config.bin} ${this.commandName}`
    const known = Object.keys({ ...this.ctor.baseFlags, ...this.ctor.flags }).map((name) => `--${name}`)
    const unknown = thrown instanceof Error && 'flags' in thrown ? (thrown.flags as string[]) : []
    const meant = unknown.map((flag) => nearest(flag, known)).filter((flag) => flag !== undefined)
    return [...meant.map((flag) => `${command} ${flag}`), `${command} --help`]
  }

  /**
   * The signature by which an operator is who `actor` says, over one plan and this run.
   * @throws TabibError OPERATOR_UNPROVED
   */
  protected async proveActor(planHash: string): Promise<string> {
    const { db, operatorKeyStore, config } = await this.openApp()
    const { proveActor } = await import('./domain/approval/prove.ts')
    const { actor, runId } = this
    const { context } = config
    return proveActor({ db, keyStore: operatorKeyStore }, { actor, planHash, context, runId })
  }

  /** Who approved this plan: the signer of the approval, which is used up by this. */
  async #approver(db: Queryable, operation: Operation, approval: string): Promise<string> {
    const { acceptApproval } = await import('./domain/approval/accept.ts')
    return acceptApproval({ db }, { ...operation, planHash: operation.planHash!, approval })
  }

  /** What `--approval` names, for what is verified and recorded without a database. @throws TabibError APPROVAL_REQUIRED */
  protected async approvalOf(planHash: string): Promise<string> {
    const approval = await this.#approval(await this.loadConfig(), planHash, true)
    return approval!
  }

  /** What `--approval` names; undefined when none is given and none demanded. */
  async #approval(
    config: Config,
    planHash: string,
    demanded: boolean = config.approvalsRequired,
  ): Promise<string | undefined> {
    const file = (this.flags as { approval?: string }).approval
    if (file !== undefined) return (await import('./text-file.ts')).readTextFile(file)
    if (!demanded) return undefined
    throw new TabibError(
      'APPROVAL_REQUIRED',
      `${config.approvalsRequired ? `the context "${config.context}"` : `${this.config.bin} ${this.commandName}`} wants another operator's approval of plan ${planHash}`,
      {
        suggestions: [
          `tabib approval create ${planHash} --reason "<why>" --file approval.jws    # by another operator`,
          'the same command with --approval approval.jws',
        ],
        context: { planHash },
      },
    )
  }

  async #operation(config: Config, details: OperationDetails): Promise<Operation> {
    const { redactArgv } = await import('./domain/audit/operation.ts')
    return {
      ...details,
      runId: this.runId,
      actor: this.actor,
      context: config.context,
      command: this.commandName,
      argsRedacted: redactArgv(this.argv),
      version: this.config.version,
    }
  }

  async #asking(): Promise<Asking> {
    const config = await this.loadConfig()
    const flags = this.flags as { yes?: boolean; confirm?: string[]; reason?: string; 'no-input'?: boolean }
    return {
      yes: flags.yes ?? false,
      confirmed: flags.confirm ?? [],
      reason: flags.reason,
      productionContext: config.production ? config.context : undefined,
      mayPrompt: Boolean(process.stdin.isTTY) && !flags['no-input'],
    }
  }
}

/** In a `while read` of a shell the rest of the list is on stdin, and is no argument that was left out. */
function unfed(args: Interfaces.ArgInput): Interfaces.ArgInput {
  return Object.fromEntries(Object.entries(args).map(([name, arg]) => [name, { ...arg, ignoreStdin: true }]))
}

/** An empty value is a variable of a script that nobody set, and may mean everything where a name means one. */
function refuseEmpty(args: Record<string, unknown>, flags: Record<string, unknown>): void {
  const named = Object.entries(flags).map(([name, value]) => [`--${name}`, value] as const)
  for (const [name, value] of [...Object.entries(args), ...named]) {
    if (value === '' || (Array.isArray(value) && value.includes('')))
      throw new TabibError('USAGE', `${name} is given, and empty`)
  }
}

function rejectable(): { promise: Promise<never>; reject: (reason: Error) => void } {
  let reject: (reason: Error) => void = () => {}
  const promise = new Promise<never>((_, fail) => {
    reject = fail
  })
  // Nobody may be waiting for it.
  promise.catch(() => {})
  return { promise, reject }
}
