import { Flags } from '@oclif/core'
import { durationFlag, planned, severe, TabibCommand, waitFlag } from '../../command.ts'
import { applyEnd, type Ended, type EndPlan, planEnd } from '../../domain/cluster/end-session.ts'
import {
  diagnosePool,
  ownerOf,
  type PoolAdvice,
  type PoolDiagnosis,
} from '../../domain/cluster/judge-pool.ts'
import { observePool, type Pool, type PoolState } from '../../domain/cluster/pool.ts'
import { isIdleInTransaction, type Session } from '../../domain/cluster/sessions.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import { fails } from '../../findings-report.ts'
import { counted, mark, table } from '../../render.ts'

const whichFlag = Flags.custom<number | 'idle'>({
  helpValue: '<pid>',
  parse: async (text) => {
    if (text === 'idle') return text
    const pid = Number(text)
    if (/^\d+$/.test(text) && pid > 0 && pid < 2 ** 31) return pid
    throw new TabibError('USAGE', `"${text}" is no process number, as \`tabib cluster pool\` lists them`)
  },
})

export default class ClusterPool extends TabibCommand<typeof ClusterPool> {
  static override summary =
    'Connections to Postgres: who has them, who waits, how many each pool should have; ends chosen sessions.'
  static override description =
    'Statements are shown without their literals. Sizes are by Little’s law and Erlang’s C formula on measured rate and time, ' +
    'within what Postgres has left (docs/cluster.md). A session is ended only if it still is the one that was planned. ' +
    'Exits 1 when something is amiss.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --terminate 4711 --confirm 4711 --reason "export hangs since 3 a.m."',
    '<%= config.bin %> <%= command.id %> --terminate idle --idle-for 1m --dry-run',
  ]
  static override flags = {
    cancel: whichFlag({
      description: 'end the statement of this process, not its session',
      exclusive: ['terminate', 'idle-for'],
    }),
    terminate: whichFlag({
      helpValue: '<pid>|idle',
      description: 'end the session of this process, or every one that is idle in a transaction',
    }),
    'idle-for': durationFlag({
      description: 'with --terminate idle: for how long at least; 30s when left out',
    }),
    protected: Flags.boolean({ description: 'also a worker of tabib’s, or replication' }),
    cores: Flags.integer({
      min: 1,
      helpValue: '<n>',
      description: 'of the host of Postgres, which tells nobody: how many can be at work at once',
    }),
    sample: waitFlag({
      description: 'for how long the load is measured where no pgbouncer does; 2s when left out',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { cancel, terminate, cores } = this.flags
    if (cancel === 'idle')
      throw new TabibError('USAGE', 'an idle session has no statement to cancel', {
        suggestions: ['tabib cluster pool --terminate idle --dry-run'],
      })
    const which = cancel ?? terminate
    if (which !== undefined) return this.#end(cancel === undefined ? 'terminate' : 'cancel', which)
    const state = await observePool(await this.openApp(), { sampleMs: this.flags.sample ?? 2_000 })
    // Of two systems one may be away; of all there is to see, none may not.
    if (!state.postgres.read && !state.pooler?.read) throw state.postgres.error
    const diagnosis = diagnosePool(state, { cores })
    const { findings, advice, commands, usable, used, sessions } = diagnosis
    this.succeed({
      result: {
        usable: usable ?? null,
        used: used ?? null,
        sessions: sessions.map(({ state: own = null, backendStart = null, ...one }) => ({
          ...one,
          state: own,
          backendStart,
        })),
        pools: state.pooler?.read ? state.pooler.value.pools : [],
        advice,
        commands,
        findings,
      },
      status: findings.some(fails) ? 'findings' : 'ok',
      text: () => poolText(state, diagnosis),
    })
  }

  async #end(by: EndPlan['by'], which: number | 'idle'): Promise<void> {
    const app = await this.openApp()
    const { plan, sessions, spared } = await planEnd(app, {
      by,
      which,
      idleForS: (this.flags['idle-for'] ?? 30_000) / 1_000,
      protectedToo: this.flags.protected,
    })
    const text = () =>
      [
        `${by === 'cancel' ? 'Cancel the statement' : 'End the session'} of:`,
        table(
          sessions.map((one) => rowOf({ ...one, owner: ownerOf(one, undefined) })),
          COLUMNS,
        ),
        ...spared.map(({ pid, kind }) => `left alone: ${pid}, ${kind}`),
      ].join('\n')
    const hash = await this.settlePlan(plan, text)
    if (hash === undefined) return
    this.note(text())
    const { reason } = await this.confirmSevere(String(which), `${by} ${which}`)
    const target = `session:${which}`
    const targets = plan.sessions.map(({ pid, backendStart }) => `session:${pid}@${backendStart}`)
    const ended = await this.mutateAlone(
      target,
      { targets, planHash: hash, reason, failureMode: 'billing/FM-19' },
      () => applyEnd(app, plan),
    )
    const open = ended.filter(({ outcome }) => outcome === 'still-there')
    this.succeed({
      result: { plan, ended },
      status: open.length > 0 ? 'findings' : 'ok',
      text: () => ended.map((one) => endedText(one, by)).join('\n'),
    })
  }
}

const endedText = ({ pid, outcome }: Ended, by: EndPlan['by']): string =>
  ({
    ended: `${mark('ok')} ${pid}: its ${by === 'cancel' ? 'statement' : 'session'} has ended`,
    'moved-on': `${mark('ok')} ${pid}: had moved on by itself; nothing was done to it`,
    'still-there': `${mark('failed')} ${pid}: was told to end and is still there`,
  })[outcome]

const COLUMNS = ['pid', 'owner', 'state', 'seconds', 'tenant', 'statement'] as const
const LONGEST_STATEMENT = 60

function rowOf({ owner, pid, state, forS, tenant, query }: Session & { owner: string }) {
  return {
    pid,
    owner,
    state: state ?? 'not shown',
    seconds: forS === null ? undefined : Math.round(forS),
    tenant: tenant ?? undefined,
    statement: query.length > LONGEST_STATEMENT ? `${query.slice(0, LONGEST_STATEMENT)}…` : query,
  }
}

function poolText({ postgres, pooler }: PoolState, diagnosis: PoolDiagnosis): string {
  const { sessions, advice, commands, findings, used, usable } = diagnosis
  const open = sessions.filter(
    (one) => one.kind !== 'own' && (one.state === 'active' || isIdleInTransaction(one)),
  )
  const blocks: string[] = []
  if (postgres.read) {
    const { maxConnections, reserved } = postgres.value
    blocks.push(
      `Postgres: ${used} of ${usable} connections in use (${maxConnections}, ${reserved} reserved), ${counted(open.length, 'session')} at work or in a transaction`,
    )
    if (open.length > 0) blocks.push(table(open.map(rowOf), COLUMNS))
  }
  if (pooler?.read) {
    const { version, where, pools } = pooler.value
    blocks.push(`pgbouncer ${version} at ${where}`)
    if (pools.length > 0) blocks.push(table(pools.map(poolRow), POOL_COLUMNS))
  }
  const should = advice.map(adviceText)
  if (should.length > 0) blocks.push(should.join('\n'))
  if (commands.length > 0)
    blocks.push(['To set the sizes:', ...commands.map((line) => `  ${line}`)].join('\n'))
  blocks.push(findings.length === 0 ? `${mark('ok')} nothing is amiss` : findings.map(findingText).join('\n'))
  return blocks.join('\n\n')
}

const POOL_COLUMNS = ['database', 'user', 'mode', 'inUse', 'open', 'waiting', 'maxWaitS'] as const

const poolRow = ({ serversActive, serversOpen, clientsWaiting, maxWaitS, ...pool }: Pool) => ({
  ...pool,
  inUse: serversActive,
  open: serversOpen,
  waiting: clientsWaiting,
  maxWaitS: maxWaitS.toFixed(1),
})

function adviceText({ database, user, size, wants, fits, transactionsPerS, transactionS, now }: PoolAdvice) {
  const whose = user === null ? `${database}, all pools together` : `${database}/${user}`
  const has = size === null ? '' : `has ${size}, `
  const load = `${transactionsPerS.toFixed(1)} transactions/s × ${(transactionS * 1_000).toFixed(1)} ms = ${(transactionsPerS * transactionS).toFixed(2)} busy on average, ${now} wanted now`
  return `${whose}: ${has}should have ${fits}${fits < wants ? ` (wants ${wants}, for which there is no room)` : ''}: ${load}`
}

function findingText({ severity, object, message, fix }: Finding): string {
  const outcome = severity === 'error' ? 'failed' : severity === 'warning' ? 'warning' : 'ok'
  return [`${mark(outcome)} ${object}: ${message}`, ...(fix === null ? [] : [`    ${fix}`])].join('\n')
}
