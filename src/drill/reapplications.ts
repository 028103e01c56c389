import assert from 'node:assert/strict'
import { cp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type App, createApp, createLogger } from '../app.ts'
import { loadConfig } from '../config.ts'
import { PARTICIPANTS } from '../domain/erasure/participants.ts'
import { performStep } from '../domain/erasure/perform.ts'
import { rememberErasures } from '../domain/erasure/remember.ts'
import { openRestoreGuard } from '../domain/erasure/restore-guard.ts'
import { erasurePass } from '../domain/erasure/saga.ts'
import { TabibError } from '../errors.ts'
import { dumpDatabase, restoreDatabase } from '../sandbox/backup.ts'
import { type Chance, randomFrom } from '../sandbox/random.ts'
import type { World } from '../sandbox/world.ts'
import { orderAll, stateOf, whoIsLeft } from './erasures.ts'

export interface ReapplicationsOptions {
  subjects: number
  seed: number
  /** How often `erasure reapply` is killed (SIGKILL) before it is let run to its end. */
  kills: number
  signal: AbortSignal
  say?: (line: string) => void
}

/** What became of one restored database. */
export interface Reapplication {
  /** How often the command was killed before it ended, and how long each of its runs lasted. */
  kills: number
  runsS: number[]
  /** After the restore, or a kill: traffic was let in although the list was not re-applied. */
  letIn: number
  /** Steps that were acknowledged twice; places that still say something of a subject, once the saga is done. */
  doubled: number
  left: Record<string, number>
  complete: number
  state: Record<string, string>
}

/**
 * Erases many patients, restores the backup of before twice, database and files, and has `erasure reapply` erase them
 * again: once undisturbed, once killed at random moments and run again.
 */
export async function runReapplications(
  world: World,
  { subjects, seed, kills, signal, say = () => {} }: ReapplicationsOptions,
): Promise<{ calm: Reapplication; killed: Reapplication; differs: string[] }> {
  const { app } = world
  const chance = randomFrom(seed)
  const tenantId = await world.tenant()
  await world.operator('privacy-officer')
  const patients = await world.patients({ tenantId, count: subjects, seed })
  const backup = await takeBackup(world)
  await orderAll(
    world,
    tenantId,
    patients.map(({ patientId }) => patientId),
  )
  await eraseAll(app, tenantId)
  await rememberErasures(app)
  say(`${subjects} patients are erased`)
  const restoration = { world, tenantId, subjects, backup, chance, signal, say }
  const calm = await reapplied({ ...restoration, kills: 0, lastsS: 0 })
  const killed = await reapplied({ ...restoration, kills, lastsS: calm.runsS[0]! })
  const differs = Object.keys(calm.state).filter((place) => calm.state[place] !== killed.state[place])
  return { calm, killed, differs }
}

/** Every step of every request, in their order. */
async function eraseAll({ db, ...systems }: App, tenantId: string): Promise<void> {
  const requests = await db.query<{ requestId: string }>(
    'select id as "requestId" from tabib.erasure_request order by requested_at',
  )
  for (const { requestId } of requests) {
    for (const participant of PARTICIPANTS) {
      await performStep({ ...systems, db }, participant, { requestId, tenantId, round: 1, instance: 'soak' })
    }
  }
}

interface Backup {
  dump: string
  folders: { from: string; to: string }[]
}

async function takeBackup({ env, postgres }: World): Promise<Backup> {
  const to = join(env.TABIB_ATTACHMENTS!, '..', 'backup')
  const folders = [env.TABIB_ATTACHMENTS!, env.TABIB_STATEMENT_STORE!.replace(/^file:/, '')].map(
    (from, n) => ({ from, to: join(to, String(n)) }),
  )
  for (const folder of folders) await cp(folder.from, folder.to, { recursive: true })
  const dump = join(to, 'dump')
  const database = env.TABIB_DATABASE_URL!.split('/').at(-1)!
  await dumpDatabase({ adminUrl: postgres.adminUrl, database, file: dump })
  return { dump, folders }
}

async function reapplied({
  world,
  tenantId,
  subjects,
  backup,
  kills,
  lastsS,
  chance,
  signal,
  say,
}: {
  world: World
  tenantId: string
  subjects: number
  backup: Backup
  kills: number
  /** How long the command takes that nobody kills. */
  lastsS: number
  chance: Chance
  signal: AbortSignal
  say: (line: string) => void
}): Promise<Reapplication> {
  const { name } = await world.postgres.createDatabase()
  await restoreDatabase({ adminUrl: world.postgres.adminUrl, database: name, file: backup.dump })
  for (const { from, to } of backup.folders) {
    await rm(from, { recursive: true, force: true })
    await cp(to, from, { recursive: true })
  }
  const env = { ...world.env, TABIB_DATABASE_URL: world.postgres.url('tabib', name) }
  await using app = createApp(loadConfig({ env, cwd: '/' }), { log: createLogger('silent') })
  const result: Reapplication = {
    ...{ kills: 0, runsS: [], letIn: 0, doubled: 0, left: {}, complete: 0, state: {} },
  }
  if (await takesTraffic(app)) result.letIn += 1
  for (;;) {
    const began = performance.now()
    await using command = world.spawn(
      ['erasure', 'reapply', '--confirm', name, '--reason', 'restored', '--json'],
      { env },
    )
    if (result.kills < kills && !signal.aborted) {
      // Most soon, so that much is left for the next; every third anywhere in what a whole run takes.
      const withinMs = lastsS * (result.kills % 3 === 0 ? 1_000 : 250)
      await Promise.race([delay(500 + chance.below(withinMs)), command.exited])
      command.signal('SIGKILL')
    }
    const exitCode = await command.exited
    result.runsS.push(Math.round((performance.now() - began) / 100) / 10)
    if (exitCode !== null) {
      assert.equal(exitCode, 0, command.stdout())
      break
    }
    result.kills += 1
    if (await takesTraffic(app)) result.letIn += 1
    // Its lock runs out by itself; nobody waits for that here.
    await app.db.query('delete from tabib.operation_lock')
    say(`killed ${result.kills} times, the last after ${result.runsS.at(-1)} s`)
  }
  assert(await takesTraffic(app), 'the list is re-applied, and no traffic is let in')
  await finish(app)
  const [steps] = await app.db.query<{ doubled: number; complete: number }>(
    `select (select count(*)::int from (
         select from tabib.erasure_ack group by request_id, participant having count(*) > 1) twice) as doubled,
       (select count(*)::int from tabib.erasure_request where state = 'complete' and follows is not null) as complete`,
  )
  Object.assign(result, steps, {
    left: await whoIsLeft(app, tenantId),
    state: await stateOf(app, tenantId),
  })
  say(`${name}: ${result.complete} of ${subjects} are erased again`)
  return result
}

async function takesTraffic(app: App): Promise<boolean> {
  try {
    await openRestoreGuard(app).assertApplied()
    return true
  } catch (error) {
    if (error instanceof TabibError && error.code === 'ERASURES_MISSING') return false
    throw error
  }
}

/** What the erasure-replay worker does afterwards: it reads again, and once more when the 24 hours are over. */
async function finish(app: App): Promise<void> {
  await erasurePass(app)
  await app.db.query(`update tabib.erasure_request set watch_until = watch_until - interval '24 hours'`)
  await erasurePass(app)
}
