import { setTimeout as delay } from 'node:timers/promises'
import { stepClock } from '../../adapters/ntp/client.ts'
import { TabibError } from '../../errors.ts'
import { allClocks, type ClockReader, SKEW_LIMIT_S, skewOf } from './clocks.ts'

/** Whose clocks are to be set, and by which command each. */
export interface StepPlan {
  hosts: { host: string; argv: string[] }[]
}

export interface Stepped {
  hosts: { host: string; error: string | null }[]
  /** How far apart the clocks are afterwards. */
  skewS: number | null
}

// What may stand in an argument: a name or an address, and no option.
const HOST = /^[A-Za-z0-9:][A-Za-z0-9.:-]*$/

/**
 * Plans to set every clock that is away from most others.
 *
 * @throws TabibError NOT_NEEDED when none is; CONFIG_INVALID when the configuration does not say how.
 */
export async function planStep(
  app: ClockReader & { config: { clockStep: readonly string[] | undefined } },
): Promise<StepPlan> {
  const { off } = skewOf(await allClocks(app))
  if (off.length === 0)
    throw new TabibError('NOT_NEEDED', `no clock is ${SKEW_LIMIT_S} s away from the others`)
  const hosts = [...new Set(off.map(({ host }) => host))].sort()
  const { clockStep } = app.config
  if (clockStep === undefined) {
    throw new TabibError(
      'CONFIG_INVALID',
      'the configuration does not say how a clock is set (clocks.step)',
      {
        suggestions: [...hosts.map((host) => `ssh ${host} sudo chronyc makestep`), 'docs/cluster.md'],
      },
    )
  }
  const wrong = hosts.find((host) => !HOST.test(host))
  if (wrong !== undefined) throw new TabibError('USAGE', `"${wrong}" is no host that a command may be given`)
  return {
    hosts: hosts.map((host) => ({ host, argv: clockStep.map((one) => one.replaceAll('{host}', host)) })),
  }
}

const RIGHT_WITHIN_MS = 15_000

/** Sets them, one after the other, and waits until they agree, for 15 s. Setting a clock twice does no harm. */
export async function applyStep(app: ClockReader, plan: StepPlan): Promise<Stepped> {
  const hosts: Stepped['hosts'] = []
  for (const { host, argv } of plan.hosts) hosts.push({ host, error: (await stepClock(argv)) ?? null })
  const deadline = performance.now() + RIGHT_WITHIN_MS
  for (;;) {
    const { seconds } = skewOf(await allClocks(app))
    const right = seconds !== undefined && seconds <= SKEW_LIMIT_S
    if (right || hosts.every(({ error }) => error !== null) || performance.now() > deadline)
      return { hosts, skewS: seconds ?? null }
    await delay(250)
  }
}
