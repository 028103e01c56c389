import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { App } from '../app.ts'
import { acceptOrder, createOrder } from '../domain/erasure/order.ts'
import { PARTICIPANTS } from '../domain/erasure/participants.ts'
import { asErasure } from '../domain/erasure/perform.ts'
import { reconcileErasures } from '../domain/erasure/reconcile.ts'
import { askRedis } from '../domain/erasure/redis.ts'
import { ERASURE_STREAM } from '../domain/erasure/remember.ts'
import { STEP_STREAM } from '../domain/erasure/step.ts'
import { TabibError } from '../errors.ts'
import { type LossyNats, openLossyNats } from '../sandbox/faults/nats-loss.ts'
import { type Chance, randomFrom } from '../sandbox/random.ts'
import type { TabibProcess, World } from '../sandbox/world.ts'

export interface ErasuresOptions {
  subjects: number
  seed: number
  /** The same in every run that is compared: whose patients they are. */
  tenantId: string
  /** Share of the steps that NATS loses on their way to the participants; 0 with `kills` 0 is the run without faults. */
  loss: number
  /** How often each process is killed (SIGKILL), at most, while it has work. */
  kills: number
  /** After so many kills of processes a server is killed, too, and started again: Postgres, NATS, Redis in turn; 0: none. */
  serverEvery: number
  /** Aborted: no further process is killed. */
  signal: AbortSignal
  say?: (line: string) => void
}

export interface ErasuresResult {
  subjects: number
  /** Messages with steps that were lost, and delivered, until the last kill. */
  lost: number
  delivered: number
  /** SIGKILLs by process, each while it had work to do. The dispatch log's participant was down for the first 20 of them. */
  kills: Record<string, number>
  /** SIGKILLs by server. */
  serverKills: Record<string, number>
  /** From the first order to the last acknowledgement, and from the end of the faults to it. */
  tookS: number
  afterFaultsS: number
  attempts: number
  /** Acknowledgements beyond or below one a step; rows that say something of a subject; findings of the reconciliation. */
  doubled: number
  missing: number
  left: Record<string, number>
  findings: string[]
  complete: number
  /** What is stored afterwards, by table, and what each participant acknowledged: the same in any two runs. */
  state: Record<string, string>
}

const WORKERS = ['replay', ...PARTICIPANTS.map(({ id }) => id)]
const SERVERS = ['postgres', 'nats', 'redis'] as const
const DOWN = 'dispatch-log'
const DOWN_FOR = 20
const LIMIT_S = 900

/**
 * Erases many patients while NATS loses steps, a participant is down and processes are killed at random moments, every one
 * of them several times. Then counts what is left, and what was done twice.
 */
export async function runErasures(world: World, options: ErasuresOptions): Promise<ErasuresResult> {
  const { subjects, seed, tenantId, loss, kills, serverEvery, signal, say = () => {} } = options
  const chance = randomFrom(seed)
  await world.tenant(tenantId)
  await world.operator('privacy-officer')
  const patients = await world.patients({ tenantId, count: subjects, seed })
  say(`${subjects} patients are there`)
  await using nats = await openLossyNats({
    serverUrl: world.env.TABIB_NATS_URL!,
    prefix: 'tabib.erasure.step.',
    share: loss,
    seed,
  })
  const faulty = kills > 0
  const crew = new Crew(world, nats)
  for (const name of WORKERS) if (!faulty || name !== DOWN) crew.start(name)
  const began = performance.now()
  await orderAll(
    world,
    tenantId,
    patients.map(({ patientId }) => patientId),
  )
  say('all are ordered')
  const serverKills: Record<string, number> = {}
  if (faulty) await killAtRandom(crew, { chance, kills, serverEvery, serverKills, signal, world, say })
  await crew.allUp()
  nats.lose(0)
  const faultsEnded = performance.now()
  await acknowledged(world, subjects, say)
  const took = (from: number) => Math.round((performance.now() - from) / 100) / 10
  const [tookS, afterFaultsS] = [took(began), took(faultsEnded)]
  const complete = await dayLater(world, subjects)
  await crew.stop()
  const { findings } = await reconcileErasures(world.app, {
    scan: true,
    signal: AbortSignal.timeout(600_000),
  })
  return {
    subjects,
    lost: nats.lost,
    delivered: nats.passed,
    kills: crew.kills,
    serverKills,
    tookS,
    afterFaultsS,
    ...(await counts(world)),
    left: await whoIsLeft(world.app, tenantId),
    findings: findings.map(({ id, object }) => `${id} ${object}`),
    complete,
    state: await stateOf(world, tenantId),
  }
}

/** The workers of an erasure, each a process of its own, behind the link that loses. */
class Crew {
  readonly kills: Record<string, number> = {}
  readonly #running = new Map<string, { process: TabibProcess; up: Promise<unknown>; isUp: boolean }>()
  readonly #world: World
  readonly #nats: LossyNats

  constructor(world: World, nats: LossyNats) {
    this.#world = world
    this.#nats = nats
  }

  /** Those that have come up. */
  get up(): string[] {
    return [...this.#running].filter(([, { isUp }]) => isUp).map(([name]) => name)
  }

  start(name: string): void {
    if (this.#running.has(name)) return
    const process = this.#world.spawn(['worker', 'run', `erasure-${name}`], {
      env: { TABIB_NATS_URL: this.#nats.url },
    })
    const started = { process, isUp: false, up: Promise.resolve() as Promise<unknown> }
    started.up = process.listening().then(
      () => {
        started.isUp = true
      },
      // Killed before it was up.
      () => {},
    )
    this.#running.set(name, started)
  }

  async allUp(): Promise<void> {
    for (const name of WORKERS) this.start(name)
    await Promise.all([...this.#running.values()].map(({ up }) => up))
  }

  async kill(name: string): Promise<void> {
    const victim = this.#running.get(name)!
    this.#running.delete(name)
    victim.process.signal('SIGKILL')
    await victim.process.exited
    this.kills[name] = (this.kills[name] ?? 0) + 1
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#running.values()].map(({ process }) => process[Symbol.asyncDispose]()))
  }
}

/** Orders all, as the privacy officer. */
export async function orderAll(world: World, tenantId: string, subjectIds: string[]): Promise<void> {
  const { app } = world
  const secret = await app.erasureSecret()
  const { context } = app.config
  for (const subjectId of subjectIds) {
    const order = await createOrder(app, { operator: 'privacy-officer', tenantId, subjectId, context })
    await acceptOrder({ db: app.db, secret }, { order, context, authorities: app.config.erasure.authorities })
  }
}

async function killAtRandom(
  crew: Crew,
  {
    chance,
    kills,
    serverEvery,
    serverKills,
    signal,
    world,
    say,
  }: Pick<ErasuresOptions, 'kills' | 'serverEvery' | 'signal'> &
    Pick<ErasuresResult, 'serverKills'> & { chance: Chance; world: World; say: (line: string) => void },
): Promise<void> {
  for (let n = 0; !signal.aborted; ) {
    await delay(200 + chance.below(1_800))
    const busy = await atWork(world)
    if (busy.length === 0 || WORKERS.every((name) => (crew.kills[name] ?? 0) >= kills)) return
    if (n >= DOWN_FOR) crew.start(DOWN)
    // The worker that sends is killed less often than its lease lasts: else nobody would ever send.
    const able = crew.up.filter(
      (name) =>
        (crew.kills[name] ?? 0) < kills && (name === 'replay' ? chance.happens(0.1) : busy.includes(name)),
    )
    // Of those at work, whoever was killed least.
    const [name] = able.sort((a, b) => (crew.kills[a] ?? 0) - (crew.kills[b] ?? 0))
    if (name === undefined) continue
    await crew.kill(name)
    crew.start(name)
    n += 1
    if (serverEvery > 0 && n % serverEvery === 0)
      await killServer(world, { chance, kills: serverKills, turn: n / serverEvery - 1 })
    if (n % 10 === 0) say(`${n} kills; at work: ${busy.join(', ')}`)
  }
}

/** SIGKILL to one server, which is away for up to four seconds and starts again on what its disk has. */
async function killServer(
  world: World,
  { chance, kills, turn }: { chance: Chance; kills: Record<string, number>; turn: number },
): Promise<void> {
  const name = SERVERS[turn % SERVERS.length]!
  // Redis keeps in memory what services cache; lost, there would be nothing to erase.
  if (name === 'redis') await askRedis(world.app.redis, (ready) => ready.save())
  await world[name].kill()
  await delay(chance.below(4_000))
  await world[name].restart()
  kills[name] = (kills[name] ?? 0) + 1
  // Every other time its disk is gone with it.
  if (name === 'nats' && kills[name]! % 2 === 0) {
    for (const stream of [STEP_STREAM, ERASURE_STREAM]) await world.app.nats.deleteStream(stream.name)
  }
  // The connections of this process are dead as well.
  for (let n = 0; !(await world.db.query('select 1').then(Boolean, () => false)); n += 1) {
    if (n === 300)
      throw new TabibError('TIMED_OUT', `${name} was killed, and Postgres takes no query after 30 s`)
    await delay(100)
  }
}

/** Participants that were told of a step and have not acknowledged it; whoever is to send, while anything is left. */
async function atWork(world: World): Promise<string[]> {
  const rows = await world.db.query<{ participant: string }>(
    `select distinct participant from tabib.erasure_step s where state = 'sent' and not exists (
       select from tabib.erasure_ack a where (a.request_id, a.participant, a.round) = (s.request_id, s.participant, s.round))
     union all select 'replay' where exists (select from tabib.erasure_step where state <> 'done')`,
  )
  return rows.map(({ participant }) => participant)
}

async function acknowledged(world: World, subjects: number, say: (line: string) => void): Promise<void> {
  const deadline = performance.now() + LIMIT_S * 1_000
  for (let n = 0; ; n += 1) {
    const [row] = await world.db.query<{ watching: number }>(
      `select count(*)::int as watching from tabib.erasure_request where state = 'watching'`,
    )
    if (row!.watching === subjects) return
    if (performance.now() > deadline) {
      throw new TabibError('TIMED_OUT', `${row!.watching} of ${subjects} are acknowledged after ${LIMIT_S} s`)
    }
    if (n % 20 === 0) say(`${row!.watching} of ${subjects} are acknowledged in full`)
    await delay(500)
  }
}

/** The 24 hours pass, and the erasure-replay worker reads everything for the last time. */
async function dayLater(world: World, subjects: number): Promise<number> {
  await world.db.query(`update tabib.erasure_request set watch_until = watch_until - interval '24 hours'`)
  const deadline = performance.now() + LIMIT_S * 1_000
  for (;;) {
    const [row] = await world.db.query<{ complete: number }>(
      `select count(*)::int as complete from tabib.erasure_request where state = 'complete'`,
    )
    if (row!.complete === subjects || performance.now() > deadline) return row!.complete
    await delay(500)
  }
}

async function counts(world: World): Promise<Pick<ErasuresResult, 'attempts' | 'doubled' | 'missing'>> {
  const [row] = await world.db.query<{ attempts: number; doubled: number; missing: number }>(
    `select sum(attempts)::int as attempts, count(*) filter (where acks > 1)::int as doubled,
       count(*) filter (where acks = 0)::int as missing
     from (select s.attempts, count(a.round) as acks from tabib.erasure_step s
             left join tabib.erasure_ack a using (request_id, participant) group by request_id, participant, s.attempts) step`,
  )
  return row!
}

const TABLES = [
  'virtual_care.patient',
  'virtual_care.encounter_note',
  'virtual_care.appointment',
  'virtual_care.session',
  'virtual_care.participant',
  'billing.account',
  'billing.charge',
  'billing.payer',
  'billing.statement',
  'communication.contact',
  'communication.thread',
  'communication.thread_participant',
  'communication.thread_message',
  'communication.message',
  'communication.virtual_session',
  'communication.dispatch_log',
  'communication.attachment',
] as const

/** Rows of each table that say a number, an address or a name of the patients that were planted. */
export async function whoIsLeft(app: App, tenantId: string): Promise<Record<string, number>> {
  const left: Record<string, number> = {}
  await asErasure(app.db, tenantId, async (tx) => {
    for (const table of TABLES) {
      const [row] = await tx.query<{ n: number }>(
        // The last figures of an id may look like a number.
        `select count(*)::int as n from ${table} t
         where translate((to_jsonb(t) - array(
             select attname::text from pg_attribute where attrelid = $1::regclass and atttypid = 'uuid'::regtype))::text,
           '۰۱۲۳۴۵۶۷۸۹', '0123456789') ~ '(\\+93|\\y0)70\\d{7}|@mail\\.example|Karte Seh'`,
        [table],
      )
      if (row!.n > 0) left[table] = row!.n
    }
  })
  const files = await app.attachments?.list(`${tenantId}/`)
  if (files && files.length > 0) left.attachments = files.length
  const keys = await app.redis.keys(`*:${tenantId}:*`)
  if (keys.length > 0) left.cache = keys.length
  const [sealed] = await app.db.query<{ keys: number; requests: number }>(
    `select (select count(*) from tabib.subject_key where destroyed_at is null)::int as keys,
       (select count(*) from tabib.erasure_request where sealed is not null)::int as requests`,
  )
  if (sealed!.keys > 0) left.subject_key = sealed!.keys
  if (sealed!.requests > 0) left.identifiers = sealed!.requests
  return left
}

/** A digest of each table, without what is another in every run: times, and ids that were made on the way. */
export async function stateOf({ db }: Pick<App, 'db'>, tenantId: string): Promise<Record<string, string>> {
  const digests: Record<string, string> = {}
  const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
  await asErasure(db, tenantId, async (tx) => {
    for (const table of TABLES) {
      const rows = await tx.query<{ row: string }>(
        `select (to_jsonb(t) - array['sender_id', 'contact_id', 'account_id', 'run_id', 'n', 'object_key', 'transaction_id'
           ] - case when $1 then array['id'] else '{}' end - array(
             select attname::text from pg_attribute where attrelid = $2::regclass and atttypid = 'timestamptz'::regtype)
         )::text as row from ${table} t order by 1`,
        [!KEEPS_ITS_ID.has(table), table],
      )
      digests[table] = `${rows.length} ${sha256(rows.map(({ row }) => row).join('\n')).slice(0, 16)}`
    }
  })
  const acks = await db.query<{ ack: string }>(
    `select concat_ws(' ', encode(subject_hash, 'hex'), participant, round, rows_affected, detail) as ack
     from tabib.erasure_ack join tabib.erasure_request r on r.id = request_id order by 1`,
  )
  digests['tabib.erasure_ack'] =
    `${acks.length} ${sha256(acks.map(({ ack }) => ack).join('\n')).slice(0, 16)}`
  return digests
}

// Ids that the plan of the run gives, and that no default makes.
const KEEPS_ITS_ID = new Set<string>([
  'virtual_care.patient',
  'virtual_care.appointment',
  'virtual_care.session',
  'communication.thread',
  'communication.message',
])
