import { spawn as spawnChild } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Nats } from '../adapters/nats/client.ts'
import type { Page } from '../adapters/pager/client.ts'
import { type Database, openDatabase } from '../adapters/postgres/client.ts'
import { type App, createApp, createLogger } from '../app.ts'
import { type Config, loadConfig } from '../config.ts'
import { addOperator, listOperators } from '../domain/approval/operator.ts'
import { publishedKeys } from '../domain/keys/key-set.ts'
import { MANIFEST_PURPOSE } from '../domain/residency/manifest.ts'
import { migrateUp } from '../domain/schema/migrate.ts'
import { TabibError } from '../errors.ts'
import { packageRoot } from '../package-root.ts'
import { eventStreamOf, type Service, schemaOf } from '../service.ts'
import { dumpDatabase, restoreDatabase } from './backup.ts'
import { killTree } from './faults/process.ts'
import { openSandboxFolder, type SandboxFolder } from './folder.ts'
import { heavyLogo } from './heavy-logo.ts'
import { plantHistory } from './ledger-history.ts'
import { type PlantedPatient, plantPatient, plantPatients } from './patients.ts'
import { requirePrograms } from './servers/find.ts'
import { type NatsServer, startNats } from './servers/nats.ts'
import { type PatroniOptions, type PatroniServer, startPatroni } from './servers/patroni.ts'
import { type PgBouncerServer, startPgBouncer } from './servers/pgbouncer.ts'
import { makeRoles, type PostgresServer, type PreparedPostgres, startPostgres } from './servers/postgres.ts'
import { type RedisServer, startRedis } from './servers/redis.ts'
import { type KmsSimulator, startKms } from './simulators/kms.ts'
import { type MessagingProviders, startMessagingProviders } from './simulators/messaging.ts'
import { type Phone, startPhone } from './simulators/phone.ts'
import { makeTenant } from './tenants.ts'
import { type Api, apiAt, ensureKey, makeVisit, type Visit } from './visit.ts'

/** A `tabib` process that the world started: the same binary an operator runs, pointed at the sandbox. */
export interface TabibProcess extends AsyncDisposable {
  readonly pid: number
  /** SIGKILL, SIGSTOP, SIGCONT, SIGTERM to this process alone. */
  signal(signal: NodeJS.Signals): void
  /** Settles with the exit code (null when a signal ended it). */
  readonly exited: Promise<number | null>
  /** Where its HTTP listens. @throws TabibError SERVER_FAILED when it ends before it does. */
  listening(): Promise<string>
  readonly stdout: () => string
  readonly stderr: () => string
}

/** Everything a rehearsal needs as one disposable value: private servers, an app on them, and processes to hurt. */
export interface World extends AsyncDisposable {
  /** As last configured. */
  readonly app: App
  /** tabib's own role: relay and auditor. */
  readonly db: Database
  /** A service's role (tabib_app): row-level security applies to what it does. */
  readonly service: Database
  /** The schemas' owner: for `disarm`, and for rows that nobody else may backdate. */
  readonly owner: Database
  readonly postgres: PostgresServer
  /** What `postgres` is a cluster of, where `WorldOptions.cluster` asked for one. */
  readonly cluster: PatroniServer | undefined
  readonly nats: NatsServer
  readonly redis: RedisServer
  /** The key store, where `WorldOptions.kms` asked for one; an encrypted folder otherwise. */
  readonly kms: KmsSimulator | undefined
  /** The servers, and a key store of its own, as TABIB_* for a child process on this world. */
  readonly env: Record<string, string>
  /** Starts `tabib …argv` on this world. */
  spawn(argv: string[], options?: { env?: Record<string, string> }): TabibProcess
  /** Makes `app`, and every `tabib` that is started from now on, read this as the settings of its context. */
  configure(context: object): Promise<void>
  /** A folder for manifests of backups, the key that signs them and the file by which it is believed: settings of residency. */
  manifests(): Promise<{ manifests: string; trustedKeys: string }>
  /** Starts a standby cluster of this world's Postgres under Patroni, its one member tagged with the region if given. */
  standbyCluster(options: { scope: string; region?: string }): Promise<PatroniServer>
  /** Runs `tabib …argv --json` to its end and returns exit code and the parsed envelope. */
  tabib(argv: string[]): Promise<{ exitCode: number | null; envelope: unknown; stderr: string }>
  /** Starts the workers named in one process and resolves when each has its heartbeat on record. */
  startWorkers(names: string[]): Promise<TabibProcess>
  /**
   * Starts one replica of a service that verifies tokens, and resolves when it listens. With the name of one that was
   * killed it takes that one's place; a silent one does not attest.
   */
  startVerifier(options: VerifierStart): Promise<TabibProcess>
  /**
   * Inserts `count` events as a producer would, in one transaction; returns their ids. With `ageS` their times are that
   * many seconds ago, which takes the owner: no producer may backdate. Without `aggregateId` each has its own aggregate.
   */
  produce(service: Service, options: ProduceOptions): Promise<string[]>
  /** Starts `tabib api run` and resolves when it is ready. */
  startApi(options?: { env?: Record<string, string> }): Promise<TabibProcess & Api>
  /** Starts a pgbouncer in transaction mode in front of Postgres, for tabib's own role, and has `app` know its console. */
  pooler(options: { poolSize: number }): Promise<PgBouncerServer>
  /** Pages go to a simulated phone from now on; whoever carries it answers each, once. */
  onCall(answer: (page: Page) => Promise<void>): Promise<Phone>
  /** SMS, push and e-mail go to simulated providers from now on. */
  messagingProviders(): Promise<MessagingProviders>
  /** Makes a live session with two participants in a tenant of its own, with the keys that sign for it. */
  visit(): Promise<Visit>
  /** Backs up the database as it is now; what it returns restores that over whatever the database has become. */
  backup(): Promise<() => Promise<void>>
  /** Makes a live tenant in Kabul that charges in afghani, lacks nothing that could be configured, and returns its id. */
  tenant(id?: string): Promise<string>
  /** Makes patients of a tenant with something in every store; see `plantPatients`. */
  patients(options: Parameters<typeof plantPatients>[1]): Promise<PlantedPatient[]>
  /** Makes one patient in a tenant of its own; see `plantPatient`. */
  patient(): Promise<{ tenantId: string; patientId: string }>
  /** Registers an operator whose key lies in the world's key store; again is no error. */
  operator(name: string): Promise<void>
  /**
   * Makes such a tenant with patients, and so many postings on each account within last month, whose statements can be made.
   * With a logo of so many pixels a side, all of which a full statement decodes.
   */
  clinic(options: { patients: number; lines: number; logoSide?: number }): Promise<{
    tenantId: string
    period: string
  }>
  /**
   * Stores a published event again, `times` times, each under a new message id, as a producer's retry or a replay long
   * after does it: the stream's own dedupe does not see that it is one event.
   */
  deliverAgain(service: Service, eventId: string, times: number): Promise<void>
}

export interface VerifierStart {
  purpose: string
  /** Who serves the key set. */
  keysUrl: string
  instance: string
  silent?: boolean
}

export interface ProduceOptions {
  count: number
  ageS?: number
  tenantId?: string
  aggregateType?: string
  aggregateId?: string
  type?: string
  data?: unknown
}

export interface WorldOptions {
  natsNodes?: 1 | 3 | undefined
  /** Runs Postgres as a Patroni cluster of three, strictly synchronous unless told otherwise, with etcd. */
  cluster?: boolean | Pick<PatroniOptions, 'synchronous' | 'etcdMembers' | 'settings'> | undefined
  /** Lets the clock of Postgres be moved. */
  clock?: boolean | undefined
  /** Keeps keys in a KMS instead of encrypted files. */
  kms?: boolean | undefined
  /** Whether Postgres flushes at commit, as in production; see `startPostgres`. */
  durable?: boolean | undefined
  /** Puts a link in front of each server, for faults of the network. */
  proxied?: boolean | undefined
  /** Puts the server on a disk of this many MiB, for `fillDisk` (root only). */
  diskMb?: { postgres?: number; nats?: number; redis?: number } | undefined
  /** Bytes that JetStream may keep on disk in each node. */
  natsMaxFileStore?: number | undefined
  /** Further Postgres settings. */
  postgresSettings?: Record<string, string> | undefined
  /** Copies its Postgres from this instead of making one; neither a cluster nor a small disk begins so. */
  prepared?: PreparedPostgres | undefined
  log?: Logger | undefined
}

/** @throws TabibError SANDBOX_ONLY when a context or an external URL is set: rehearsals touch only what they started. */
export function assertSandboxAllowed(config: Pick<Config, 'external' | 'context'>): void {
  if (!config.external) return
  throw new TabibError(
    'SANDBOX_ONLY',
    `this runs only on servers that it starts itself, and the configuration names others (context "${config.context}")`,
    {
      suggestions: [
        'env -u TABIB_CONTEXT -u TABIB_DATABASE_URL -u TABIB_NATS_URL -u TABIB_REDIS_URL tabib up',
      ],
      context: { context: config.context },
    },
  )
}

/**
 * Starts Postgres, NATS and Redis together, makes a database and the streams, and opens an app on them.
 *
 * @throws TabibError SERVER_MISSING, SERVER_FAILED; nothing is left running then.
 */
export async function createWorld(options: WorldOptions = {}): Promise<World> {
  // All at once, so that what is missing is installed in one go.
  await requirePrograms(['postgres', 'initdb', 'nats-server', 'redis-server'])
  const folder = await openSandboxFolder()
  try {
    return await build(folder, options)
  } catch (error) {
    await folder[Symbol.asyncDispose]()
    throw error
  }
}

async function build(folder: SandboxFolder, options: WorldOptions): Promise<World> {
  const { proxied, diskMb = {} } = options
  const prepared = options.cluster || diskMb.postgres !== undefined ? undefined : options.prepared
  const [{ postgres, cluster }, nats, redis] = await Promise.all([
    options.cluster
      ? startCluster(folder, {
          ...(options.cluster === true ? {} : options.cluster),
          proxied,
          diskMb: diskMb.postgres,
        })
      : startPostgres({
          folder,
          proxied,
          durable: options.durable,
          shiftable: options.clock,
          diskMb: diskMb.postgres,
          settings: options.postgresSettings,
          copyOf: prepared,
        }).then((alone) => ({ postgres: alone, cluster: undefined })),
    startNats({
      folder,
      proxied,
      nodes: options.natsNodes,
      diskMb: diskMb.nats,
      maxFileStore: options.natsMaxFileStore,
    }),
    startRedis({ folder, proxied, diskMb: diskMb.redis }),
  ])
  const name = prepared?.database ?? (await postgres.createDatabase()).name
  const ownerUrl = postgres.url('tabib_owner', name)
  // A file of its own, so that the settings of whoever runs this do not reach into the sandbox.
  const configFile = join(folder.path, 'tabib.yaml')
  const secretFile = join(folder.path, 'key-store.secret')
  const erasureSecretFile = join(folder.path, 'erasure.secret')
  await writeFile(configFile, 'contexts: {}\n')
  await mkdir(join(folder.path, 'attachments'))
  await writeFile(erasureSecretFile, randomBytes(32).toString('base64'), { mode: 0o600 })
  const kms = options.kms ? await startKms() : undefined
  await writeFile(secretFile, kms?.credentials ?? randomBytes(24).toString('base64'), { mode: 0o600 })
  const env = {
    TABIB_CONFIG: configFile,
    TABIB_DATABASE_URL: postgres.url('tabib', name),
    TABIB_OWNER_DATABASE_URL: ownerUrl,
    TABIB_NATS_URL: nats.url,
    TABIB_REDIS_URL: redis.url,
    ...(cluster ? { TABIB_PATRONI_URL: cluster.urls.join(), TABIB_ETCD_URL: cluster.etcd.url } : {}),
    TABIB_KEY_STORE: kms?.keyStore ?? `file:${join(folder.path, 'keys')}`,
    TABIB_KEY_STORE_SECRET_FILE: secretFile,
    TABIB_LEDGER_SEALS: join(folder.path, 'ledger-seals'),
    TABIB_ERASURE_SECRET_FILE: erasureSecretFile,
    TABIB_ERASURE_AUTHORITIES: 'privacy-officer',
    TABIB_ATTACHMENTS: join(folder.path, 'attachments'),
    TABIB_STATEMENT_STORE: `file:${join(folder.path, 'statements')}`,
    // Any free port: several worker processes run side by side.
    TABIB_WORKER_PORT: '0',
  }
  const openApp = () =>
    createApp(loadConfig({ env, cwd: folder.path }), { log: options.log ?? createLogger('warn') })
  const app = openApp()
  const apps = [app]
  const owner = openDatabase({ url: ownerUrl, applicationName: 'tabib owner', maxConnections: 2 })
  const service = openDatabase({ url: postgres.url('service', name), applicationName: 'sandbox service' })
  await migrate({ db: owner, nats: app.nats }, nats.nodes.length)
  await postgres.grantRoles()

  const processes = new Set<TabibProcess>()
  const spawn: World['spawn'] = (argv, { env: more = {} } = {}) => {
    const started = startTabib(folder, argv, { ...env, ...more })
    processes.add(started)
    void started.exited.then(() => processes.delete(started))
    return started
  }
  const configure: World['configure'] = async (context) => {
    const settings = { currentContext: 'rehearsal', contexts: { rehearsal: context } }
    await writeFile(configFile, JSON.stringify(settings))
    apps.push(openApp())
  }
  const phones = new Set<Phone>()
  const poolers: PgBouncerServer[] = []
  return {
    get app() {
      return apps.at(-1)!
    },
    db: app.db,
    service,
    owner,
    postgres,
    cluster,
    nats,
    redis,
    kms,
    env,
    spawn,
    configure,
    async manifests() {
      const [manifests, trustedKeys] = [join(folder.path, 'manifests'), join(folder.path, 'manifests.jwks')]
      await mkdir(manifests, { recursive: true })
      await ensureKey(app, MANIFEST_PURPOSE)
      await writeFile(trustedKeys, JSON.stringify(await publishedKeys(app, { purpose: MANIFEST_PURPOSE })))
      return { manifests, trustedKeys }
    },
    standbyCluster: ({ scope, region }) =>
      startPatroni({
        folder,
        scope,
        members: [{ name: 'n1', ...(region === undefined ? {} : { tags: { region } }) }],
        standbyOf: postgres.adminUrl,
      }),
    async tabib(argv) {
      await using run = spawn([...argv, '--json'])
      const exitCode = await run.exited
      return { exitCode, envelope: parseEnvelope(argv, run), stderr: run.stderr() }
    },
    async startWorkers(names) {
      const started = spawn(['worker', 'run', ...names])
      await heartbeats(app.db, names, started)
      return started
    },
    async startApi(options) {
      const started = spawn(['api', 'run', '--port', '0'], options)
      return Object.assign(started, apiAt(await ready(started)))
    },
    async pooler(options) {
      const pooler = await startPgBouncer({ folder, urls: [env.TABIB_DATABASE_URL], ...options })
      poolers.push(pooler)
      await configure({ database: { pgbouncerUrl: pooler.consoleUrl } })
      return pooler
    },
    async onCall(answer) {
      const phone = await startPhone(answer)
      phones.add(phone)
      await configure({ pager: { webhookUrl: phone.url } })
      return phone
    },
    async messagingProviders() {
      const providers = await startMessagingProviders()
      await configure({ messaging: providers.settings })
      return providers
    },
    visit: async () =>
      makeVisit({ db: app.db, service, nats: app.nats, keyStore: app.keyStore }, await makeTenant(app)),
    async startVerifier({ purpose, keysUrl, instance, silent = false }) {
      const argv = ['drill', 'verifier', '--purpose', purpose, '--keys', keysUrl, '--instance', instance]
      if (silent) argv.push('--silent')
      const started = spawn(argv)
      await started.listening()
      return started
    },
    produce: (target, events) => produce({ service, owner }, target, events),
    async backup() {
      const place = { adminUrl: postgres.adminUrl, database: name, file: join(folder.path, randomUUID()) }
      await dumpDatabase(place)
      return () => restoreDatabase(place, { over: true })
    },
    tenant: (id) => makeTenant(app, id),
    patients: (options) => {
      const { db, redis, attachments, config, fetch, erasureSecret } = app
      return plantPatients({ db, service, redis, attachments, config, fetch, erasureSecret }, options)
    },
    async patient() {
      const tenantId = await makeTenant(app)
      return { tenantId, patientId: await plantPatient(service, tenantId) }
    },
    async operator(name) {
      const known = await listOperators(app)
      if (known.some((one) => one.name === name)) return
      const { publicJwk } = await (await app.keyStore()).generate('ES256')
      await addOperator(app, { name, publicJwk, by: 'sandbox' })
    },
    async clinic({ patients, lines, logoSide }) {
      const tenantId = await makeTenant(app)
      if (logoSide !== undefined) {
        await app.db.query(
          `update tabib.tenant_profile set document = document || jsonb_build_object('letterhead', jsonb_build_object('logo', $2::text))
           where tenant_id = $1`,
          [tenantId, heavyLogo(logoSide)],
        )
      }
      const now = new Date()
      const month = (n: number, day: number) =>
        new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + n, day))
      await plantHistory(
        { owner, service },
        { tenantId, patients, lines, from: month(-1, 2), to: month(-1, 27) },
      )
      return { tenantId, period: month(-1, 2).toISOString().slice(0, 7) }
    },
    deliverAgain: (target, eventId, times) => deliverAgain(app.nats, target, eventId, times),
    async [Symbol.asyncDispose]() {
      await Promise.all([...processes, ...phones].map((one) => one[Symbol.asyncDispose]()))
      await Promise.allSettled([
        ...apps.map((one) => one[Symbol.asyncDispose]()),
        owner.close(),
        service.close(),
      ])
      await Promise.all(
        [...poolers, cluster ?? postgres, nats, redis, kms].map((server) => server?.[Symbol.asyncDispose]()),
      )
      await folder[Symbol.asyncDispose]()
    },
  }
}

async function startCluster(
  folder: SandboxFolder,
  options: Omit<PatroniOptions, 'scope' | 'members'>,
): Promise<{ postgres: PostgresServer; cluster: PatroniServer }> {
  const members = ['n1', 'n2', 'n3'].map((name) => ({ name }))
  const cluster = await startPatroni({ folder, scope: 'main', synchronous: 'strict', ...options, members })
  const roles = await makeRoles(cluster)
  const postgres = Object.create(
    cluster.members[0]!,
    Object.getOwnPropertyDescriptors(roles),
  ) as PostgresServer
  if (options.synchronous !== false) await cluster.synchronised()
  return { postgres, cluster }
}

/** A young cluster may still lose a request to an election; migrating is safe to repeat. */
async function migrate(systems: { db: Database; nats: App['nats'] }, replicas: number): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await migrateUp(systems, { replicas })
      return
    } catch (error) {
      const mayPass = error instanceof TabibError && error.code === 'NATS_UNREACHABLE' && attempt < 4
      if (!mayPass) throw error
    }
  }
}

function startTabib(folder: SandboxFolder, argv: string[], env: Record<string, string>): TabibProcess {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('TABIB_'))
  // In a checkout that was not built yet the same program runs from its sources.
  const door = existsSync(join(packageRoot(), 'dist/main.js')) ? 'bin/run.js' : 'bin/dev.js'
  const child = spawnChild(process.execPath, [join(packageRoot(), door), ...argv], {
    cwd: folder.path,
    env: { ...Object.fromEntries(inherited), NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  const { pid } = child
  if (pid === undefined) throw new TabibError('SERVER_FAILED', `could not start ${process.execPath}`)
  const recorded = folder.record(pid)
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const exited = new Promise<number | null>((resolve) => {
    // `close` and not `exit`: all output has been read by then.
    child.once('close', async (code) => {
      await recorded
      await folder.forget(pid)
      resolve(code)
    })
  })
  const url = () => /listening on (http\S+): /.exec(stderr)?.[1]
  return {
    pid,
    signal: (signal) => {
      child.kill(signal)
    },
    exited,
    listening: () =>
      new Promise((resolve, reject) => {
        const look = () => {
          const found = url()
          if (found) resolve(found)
          return found
        }
        if (look()) return
        child.stderr.on('data', look)
        child.once('close', () => {
          const said = stderr.slice(-2_000)
          reject(new TabibError('SERVER_FAILED', `tabib ${argv.join(' ')} ended before it listened\n${said}`))
        })
      }),
    stdout: () => stdout,
    stderr: () => stderr,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) await killTree(pid)
      await exited
    },
  }
}

function parseEnvelope(argv: string[], run: TabibProcess): unknown {
  try {
    return JSON.parse(run.stdout())
  } catch (cause) {
    const seen = run.stdout().slice(0, 500) || run.stderr().slice(-500)
    throw new TabibError('BUG', `tabib ${argv.join(' ')} --json printed no envelope but:\n${seen}`, { cause })
  }
}

const HEARTBEAT_LIMIT_MS = 30_000

async function heartbeats(db: Database, names: string[], started: TabibProcess): Promise<void> {
  let ended = false
  void started.exited.then(() => {
    ended = true
  })
  const deadline = performance.now() + HEARTBEAT_LIMIT_MS
  for (let waitMs = 10; ; waitMs = Math.min(waitMs * 2, 250)) {
    const beating = await db.query<{ name: string }>(
      'select name from tabib.worker_heartbeat where pid = $1 and name = any($2)',
      [started.pid, names],
    )
    if (beating.length === names.length) return
    if (ended || performance.now() > deadline) {
      const missing = names.filter((name) => !beating.some((row) => row.name === name))
      const what = ended ? 'the process ended' : `no heartbeat within ${HEARTBEAT_LIMIT_MS} ms`
      throw new TabibError(
        'SERVER_FAILED',
        `workers ${missing.join(', ')}: ${what}\n${started.stderr().slice(-2_000)}`,
      )
    }
    await delay(waitMs)
  }
}

/** The URL that a process says it listens on, once it is ready. */
async function ready(started: TabibProcess): Promise<string> {
  const url = await started.listening()
  let ended = false
  void started.exited.then(() => {
    ended = true
  })
  const deadline = performance.now() + HEARTBEAT_LIMIT_MS
  for (let waitMs = 10; ; waitMs = Math.min(waitMs * 2, 250)) {
    if ((await fetch(`${url}/readyz`).catch(() => undefined))?.ok) return url
    if (ended || performance.now() > deadline) {
      throw new TabibError('SERVER_FAILED', `the API is not ready\n${started.stderr().slice(-2_000)}`)
    }
    await delay(waitMs)
  }
}

async function produce(
  { service, owner }: { service: Database; owner: Database },
  target: Service,
  {
    count,
    ageS,
    tenantId = randomUUID(),
    aggregateType = 'rehearsal',
    aggregateId,
    type = 'recorded',
    data = { rehearsal: true },
  }: ProduceOptions,
): Promise<string[]> {
  const at = `now() - make_interval(secs => $6)`
  const values = [count, tenantId, aggregateId ?? null, type, JSON.stringify(data), ageS ?? 0, aggregateType]
  return (ageS === undefined ? service : owner).transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    const rows = await tx.query<{ id: string }>(
      `insert into ${schemaOf(target)}.outbox
         (tenant_id, aggregate_type, aggregate_id, type, data, occurred_at${ageS === undefined ? '' : ', created_at'})
       select $2, $7, coalesce($3, gen_random_uuid()::text), $4, $5, ${at}${ageS === undefined ? '' : `, ${at}`}
       from generate_series(1, $1)
       returning id`,
      values,
    )
    return rows.map(({ id }) => id)
  })
}

async function deliverAgain(nats: Nats, service: Service, eventId: string, times: number): Promise<void> {
  for await (const message of nats.messages(eventStreamOf(service), 1, { payloads: true })) {
    if (message.headers.get('Nats-Msg-Id') !== eventId) continue
    for (let n = 1; n <= times; n++) {
      await nats.store({ ...message, messageId: `${eventId}:again:${n}` })
    }
    return
  }
  throw new TabibError('NOT_FOUND', `event ${eventId} is not in the stream ${eventStreamOf(service)}`)
}
