import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { BuiltMode } from '../catalog/failure-mode.ts'
import { type ModeStatus, readStatus } from '../catalog/status.ts'
import type { PreparedPostgres } from '../sandbox/servers/postgres.ts'
import { createWorld, type TabibProcess, type World } from '../sandbox/world.ts'

/**
 * `drill`: break, detect, mitigate, recover. `without-mitigation`: the same with the cure (or the guard) taken away; it
 * must fail, or the drill proves nothing. `control`: no fault; every mode must stay silent.
 */
export type DrillKind = 'drill' | 'without-mitigation' | 'control'

export interface Step {
  name: string
  ok: boolean
  /** Seconds since the drill began. */
  atS: number
  detail: string
}

/** What happened, in order: the evidence of one drill. */
export interface DrillJournal {
  id: string
  mode: string
  title: string
  kind: DrillKind
  startedAt: string
  passed: boolean
  /** Seconds from fault to alarm, for the cure to be carried out, and from cure to quiet; null where it did not come so far. */
  detectS: number | null
  mitigateS: number | null
  recoverS: number | null
  /** Modes that rightly fired along with this one. */
  alongside: string[]
  /** What was lost or doubled; empty when nothing was. */
  lost: string[]
  steps: Step[]
}

export interface DrillOptions {
  kind: DrillKind
  /** Every built mode: the ones that must stay quiet are watched too. */
  catalog: readonly BuiltMode[]
  onStep?: (step: Step) => void
  signal?: AbortSignal
  /** What the world's Postgres is copied from, for whoever runs many. */
  prepared?: PreparedPostgres | undefined
}

const DETECT_S = 20
const RECOVER_S = 30
// Long enough for a cure by itself to show, were there one.
const UNCURED_S = 5
const CONTROL_S = 5
const SETTLE_S = 15
const POLL_MS = 200

/**
 * Runs one drill in a world of its own, on real servers, and takes the world down whatever happens. A failed
 * expectation is a step with `ok: false`, after which the drill ends; only what breaks the rehearsal itself is thrown.
 */
export async function runDrill(mode: BuiltMode, options: DrillOptions): Promise<DrillJournal> {
  const journal = openJournal(mode, options)
  await using world = await createWorld({ ...mode.drill.needs, prepared: options.prepared })
  try {
    if (options.kind === 'control') await control(world, journal, options)
    else if (mode.kind === 'guard') await rehearseGuard(mode, world, journal, options)
    else await rehearseAlert(mode, world, journal, options)
    journal.entry.passed = journal.entry.steps.every(({ ok }) => ok)
  } catch (error) {
    if (!(error instanceof Ended)) throw error
  }
  return journal.entry
}

/** quiet → inject → this mode fires, no unrelated one does → the cause goes → mitigate → quiet → nothing lost. */
async function rehearseAlert(
  mode: BuiltMode,
  world: World,
  journal: Journal,
  options: DrillOptions,
): Promise<void> {
  const { drill, mitigate } = mode
  const cured = options.kind === 'drill'
  await quiet(world, journal, options, 'quiet before')
  const fault = await drill.inject(world, true)
  const injectedAt = performance.now()
  journal.note('fault injected')
  try {
    const limitS = drill.deadlineS?.detect ?? DETECT_S
    const firing = await waitForVerdict(world, options, mode, 'firing', limitS)
    journal.expect(
      'detected',
      firing.met,
      firing.met ? messageOf(firing.all, mode.id) : `silent after ${limitS} s`,
    )
    journal.entry.detectS = seconds(injectedAt)
    unrelated(mode, await readStatus(world.app, options.catalog), journal)

    await drill.relent?.(world, fault)
    const mitigatingAt = performance.now()
    let worker: TabibProcess | undefined
    if (cured) {
      if (mitigate.worker) worker = await world.startWorkers([mitigate.worker])
      const { exitCode } = await world.tabib(mitigate.command)
      journal.expect('mitigated', exitCode === 0, `tabib ${mitigate.command.join(' ')} exited ${exitCode}`)
      journal.entry.mitigateS = seconds(mitigatingAt)
    } else journal.note('mitigation left out')

    const recoverS = cured ? (drill.deadlineS?.recover ?? RECOVER_S) : UNCURED_S
    const recoveringAt = performance.now()
    const calm = await waitForVerdict(world, options, mode, 'ok', recoverS)
    journal.expect(
      'recovered',
      calm.met,
      calm.met ? messageOf(calm.all, mode.id) : `still firing after ${recoverS} s`,
    )
    journal.entry.recoverS = seconds(recoveringAt)
    await nothingLost(mode, world, fault, journal)
    await worker?.[Symbol.asyncDispose]()
  } finally {
    await fault[Symbol.asyncDispose]()
  }
}

/**
 * A guard holds: the fault does no harm, and the detector that would tell of harm stays silent, or tells of the refusal
 * where that is what people must hear of.
 */
async function rehearseGuard(
  mode: BuiltMode,
  world: World,
  journal: Journal,
  options: DrillOptions,
): Promise<void> {
  const { drill } = mode
  await quiet(world, journal, options, 'quiet before')
  if (options.kind === 'without-mitigation') {
    await drill.disarm?.(world)
    journal.note('guard taken away')
  }
  const injectedAt = performance.now()
  const fault = await drill.inject(world, options.kind === 'drill')
  journal.note('fault injected')
  try {
    const wanted = drill.alarms ? 'firing' : 'ok'
    const limitS = drill.alarms && options.kind === 'drill' ? (drill.deadlineS?.detect ?? DETECT_S) : 0
    const { all } = await waitForVerdict(world, options, mode, wanted, limitS)
    if (options.kind === 'without-mitigation') {
      // The detector proves itself here: harm was done, and it must say so.
      journal.entry.detectS = seconds(injectedAt)
      journal.note(`detector: ${verdictOf(all, mode.id)}, ${messageOf(all, mode.id)}`)
    } else {
      journal.expect('guard held', verdictOf(all, mode.id) === wanted, messageOf(all, mode.id))
      if (drill.alarms) {
        journal.entry.detectS = seconds(injectedAt)
        unrelated(mode, await readStatus(world.app, options.catalog), journal)
      }
    }
    await nothingLost(mode, world, fault, journal)
  } finally {
    await fault[Symbol.asyncDispose]()
  }
}

/** No fault: a platform at work, and not one mode may fire. */
async function control(world: World, journal: Journal, options: DrillOptions): Promise<void> {
  await quiet(world, journal, options, 'quiet at rest')
  await using _workers = await world.startWorkers(['outbox-relay'])
  for (const service of ['billing', 'communication', 'virtual-care'] as const)
    await world.produce(service, { count: 50 })
  journal.note('events produced and relayed')
  const seen = await waitFor(world, options, options.catalog, CONTROL_S, (all) =>
    all.some(({ verdict }) => verdict === 'firing'),
  )
  const firing = seen.all
    .filter(({ verdict }) => verdict === 'firing')
    .map(({ id, message }) => `${id}: ${message}`)
  journal.expect(
    'silent at work',
    firing.length === 0,
    firing.join('; ') || `no mode fired in ${CONTROL_S} s`,
  )
}

async function quiet(world: World, journal: Journal, { catalog }: DrillOptions, name: string): Promise<void> {
  const firing = (await readStatus(world.app, catalog)).filter(({ verdict }) => verdict === 'firing')
  journal.expect(
    name,
    firing.length === 0,
    firing.map(({ id, message }) => `${id}: ${message}`).join('; ') || 'no mode fires',
  )
}

// The alarm may be quiet before the last event is delivered, so what is missing gets time to arrive.
async function nothingLost(
  mode: BuiltMode,
  world: World,
  fault: AsyncDisposable,
  journal: Journal,
): Promise<void> {
  const deadline = performance.now() + (mode.kind === 'guard' ? 0 : SETTLE_S * 1_000)
  let lost = await mode.drill.verify(world, fault)
  while (lost.length > 0 && performance.now() < deadline) {
    await delay(POLL_MS)
    lost = await mode.drill.verify(world, fault)
  }
  journal.entry.lost = lost
  journal.expect('nothing lost', lost.length === 0, lost.join('; ') || 'all accounted for')
}

function unrelated(mode: BuiltMode, all: ModeStatus[], journal: Journal): void {
  const others = all.filter(({ id, verdict }) => verdict === 'firing' && id !== mode.id).map(({ id }) => id)
  const wrong = others.filter((id) => !mode.detect.entails.includes(id as never))
  journal.entry.alongside = others.filter((id) => !wrong.includes(id))
  journal.expect('no unrelated alarm', wrong.length === 0, wrong.join(', ') || 'none')
}

/** Asks the one mode's detector alone: the others cost more than what they are waited beside. */
const waitForVerdict = (
  world: World,
  options: DrillOptions,
  mode: BuiltMode,
  verdict: ModeStatus['verdict'],
  limitS: number,
) => waitFor(world, options, [mode], limitS, (seen) => verdictOf(seen, mode.id) === verdict)

async function waitFor(
  world: World,
  { signal }: DrillOptions,
  modes: readonly BuiltMode[],
  limitS: number,
  met: (all: ModeStatus[]) => boolean,
): Promise<{ met: boolean; all: ModeStatus[] }> {
  const deadline = performance.now() + limitS * 1_000
  for (;;) {
    signal?.throwIfAborted()
    const all = await readStatus(world.app, modes)
    if (met(all)) return { met: true, all }
    if (performance.now() >= deadline) return { met: false, all }
    await delay(POLL_MS)
  }
}

const verdictOf = (all: ModeStatus[], id: string) => all.find((one) => one.id === id)?.verdict
const messageOf = (all: ModeStatus[], id: string) => all.find((one) => one.id === id)?.message ?? ''
const seconds = (sinceMs: number): number => Math.round(performance.now() - sinceMs) / 1_000

/** Ends a drill whose expectation was not met; never leaves this file. */
class Ended extends Error {}

interface Journal {
  entry: DrillJournal
  note(name: string): void
  expect(name: string, ok: boolean, detail: string): void
}

function openJournal(mode: BuiltMode, { kind, onStep }: DrillOptions): Journal {
  const began = performance.now()
  const entry: DrillJournal = {
    id: randomUUID(),
    mode: mode.id,
    title: mode.title,
    kind,
    startedAt: new Date().toISOString(),
    passed: false,
    detectS: null,
    mitigateS: null,
    recoverS: null,
    alongside: [],
    lost: [],
    steps: [],
  }
  const add = (name: string, ok: boolean, detail: string) => {
    const step = { name, ok, atS: seconds(began), detail }
    entry.steps.push(step)
    onStep?.(step)
  }
  return {
    entry,
    note: (name) => add(name, true, ''),
    expect(name, ok, detail) {
      add(name, ok, detail)
      if (!ok) throw new Ended(name)
    },
  }
}
