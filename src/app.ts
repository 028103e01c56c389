import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import type { Logger } from 'pino'
import { type Attachments, openAttachments } from './adapters/attachments/client.ts'
import { openEmail } from './adapters/email/client.ts'
import { type Bounds, type Fetch, type Http, openHttp, type Tls } from './adapters/http/client.ts'
import type { KeyStore } from './adapters/keystore/client.ts'
import { type Nats, type NatsOptions, openNats } from './adapters/nats/client.ts'
import { openPager, type Pager } from './adapters/pager/client.ts'
import { type Database, editUrl, openDatabase } from './adapters/postgres/client.ts'
import { openPush } from './adapters/push/client.ts'
import { openRedis, type Redis } from './adapters/redis/client.ts'
import { openSms } from './adapters/sms/client.ts'
import type { Config, TlsFiles } from './config.ts'
import { openWaitLog, type WaitLog } from './domain/cluster/pool-wait.ts'
import { type ErasureSecret, openErasureSecret } from './domain/erasure/secret.ts'
import type { Channels } from './domain/messaging/dispatch.ts'
import { GuardedPayload } from './domain/messaging/guarded-payload.ts'
import { redactLine } from './domain/messaging/redact-line.ts'
import { reportRefusal, requestNetworks } from './domain/residency/egress.ts'
import { TabibError } from './errors.ts'

/** Everything a command or worker may need; each part is opened when it is first touched. */
export interface App extends AsyncDisposable {
  readonly config: Config
  readonly db: Database
  /** How long this process waits for connections of `db`. */
  readonly waits: WaitLog
  /** Any host of the database that answers, for reads while none takes writes: the same as `db` where there is one host. */
  readonly replica: Database
  readonly nats: Nats
  /** The cache role: may be flushed at any time. BullMQ opens its own connections to `config.redisUrl`. */
  readonly redis: Redis
  readonly pager: Pager
  /** Undefined where no folder of them is configured. */
  readonly attachments: Attachments | undefined
  /**
   * The way out by HTTP. With a tenant: no further than the regions that it allows; without: to the platform's own
   * networks, for what carries no tenant's data. What is refused becomes an incident. With files of a certificate it
   * believes their authority and shows itself by them.
   */
  fetch(tenantId?: string, certificate?: TlsFiles): Fetch
  /** The ways to a tenant's patients, no further than its regions; each takes what the guard has checked, and nothing else. */
  channels(tenantId: string): Channels
  /** Opened when first asked for. @throws TabibError CONFIG_INVALID when none is configured. */
  keyStore(): Promise<KeyStore>
  /** Where the operator's own key lies, who runs this: the key store when no other is configured. */
  operatorKeyStore(): Promise<KeyStore>
  /** Read when first asked for. @throws TabibError CONFIG_INVALID when none is configured. */
  erasureSecret(): Promise<ErasureSecret>
  readonly log: Logger
}

export interface AppOptions {
  log?: Logger
  /** How NATS behaves when its connection is lost; see `NatsOptions`. */
  onDisconnect?: NatsOptions['onDisconnect']
  /** As Postgres shows it to who looks for the owner of a session; `tabib` when left out. */
  applicationName?: string
  /** Size of the Postgres pool. */
  maxConnections?: number
  /** See `DatabaseOptions`. */
  answerWithinMs?: number
  connectWithinMs?: number
}

export function createApp(config: Config, options: AppOptions = {}): App {
  const { onDisconnect = 'resume', maxConnections = 8 } = options
  let { log } = options
  const waits = openWaitLog()
  let db: Database | undefined
  let replica: Database | undefined
  let nats: Nats | undefined
  let redis: Redis | undefined
  let http: Http | undefined
  let pager: Pager | undefined
  let erasureSecret: Promise<ErasureSecret> | undefined
  const keyStores: Record<'keys' | 'operator', Promise<KeyStore> | undefined> = {
    keys: undefined,
    operator: undefined,
  }
  const reports = new Set<Promise<void>>()
  const open = (url: string) =>
    openDatabase({
      url,
      maxConnections,
      applicationName: options.applicationName ?? 'tabib',
      onWait: waits.record,
      ...(options.answerWithinMs === undefined ? {} : { answerWithinMs: options.answerWithinMs }),
      ...(options.connectWithinMs === undefined ? {} : { connectTimeoutMs: options.connectWithinMs }),
    })
  const app: App = {
    config,
    get log() {
      log ??= createLogger()
      return log
    },
    waits,
    get db() {
      db ??= open(required(config.databaseUrl, 'Postgres', 'TABIB_DATABASE_URL'))
      return db
    },
    get replica() {
      replica ??= open(
        editUrl(required(config.databaseUrl, 'Postgres', 'TABIB_DATABASE_URL'), ({ searchParams }) =>
          searchParams.set('target_session_attrs', 'any'),
        ),
      )
      return replica
    },
    get nats() {
      nats ??= openNats({ url: required(config.natsUrl, 'NATS', 'TABIB_NATS_URL'), onDisconnect })
      return nats
    },
    get redis() {
      redis ??= openRedis({ url: required(config.redisCacheUrl, 'Redis', 'TABIB_REDIS_URL') })
      return redis
    },
    get pager() {
      pager ??= openPager({ ...config.pager, fetch: app.fetch() })
      return pager
    },
    attachments:
      config.erasure.attachments === undefined
        ? undefined
        : openAttachments({ folder: config.erasure.attachments }),
    erasureSecret() {
      erasureSecret ??= openErasureSecret(config.erasure.secretFile).catch((error) => {
        // It may be there when the next one asks.
        erasureSecret = undefined
        throw error
      })
      return erasureSecret
    },
    fetch(tenantId, certificate) {
      const tls = certificate && (() => readTls(certificate))
      return wayOut().within({ ...boundsOf(tenantId), tls })
    },
    channels(tenantId) {
      const { sms, push, email } = config.messaging
      const { contentOf } = GuardedPayload
      const fetch = app.fetch(tenantId)
      return {
        sms: sms && openSms({ ...sms, fetch, contentOf }),
        push: push && openPush({ ...push, fetch, contentOf }),
        email:
          email && openEmail({ ...email, connect: wayOut().connectWithin(boundsOf(tenantId)), contentOf }),
      }
    },
    keyStore: () => openStore('keys'),
    operatorKeyStore: () => openStore(config.operator.store === undefined ? 'keys' : 'operator'),
    async [Symbol.asyncDispose]() {
      for (const opening of Object.values(keyStores))
        await opening?.then((store) => store[Symbol.asyncDispose]()).catch(() => undefined)
      redis?.disconnect()
      await Promise.all(reports)
      await http?.[Symbol.asyncDispose]()
      await Promise.allSettled([db?.close(), replica?.close(), nats?.close()])
    },
  }
  const wayOut = () => (http ??= openHttp())
  const boundsOf = (tenantId: string | undefined): Bounds => ({
    networks: () => requestNetworks(app, config.residency, tenantId),
    onRefused: (refusal) => {
      // Not waited for: whoever asked may hold a lock on the very incident. `dispose` waits.
      const report = reportRefusal(app.db, { ...refusal, tenantId, residency: config.residency })
        .catch((err) =>
          app.log.error({ err, host: refusal.host }, 'a refused connection could not be reported'),
        )
        .finally(() => reports.delete(report))
      reports.add(report)
    },
  })
  const openStore = (whose: 'keys' | 'operator') => {
    keyStores[whose] ??= openConfiguredKeyStore(config[whose], app.fetch()).catch((error) => {
      // It may be back when the next one asks.
      keyStores[whose] = undefined
      throw error
    })
    return keyStores[whose]
  }
  // No function of it uses `this`, since they are handed on by themselves: `{ db, keyStore }`.
  return app
}

/** JSON lines on stderr: stdout belongs to the command's data. What looks like a patient's is masked, wherever it stands. */
export function createLogger(level = process.env.TABIB_LOG_LEVEL ?? 'info'): Logger {
  // Loaded by whoever logs: most commands end without a line.
  const { pino } = createRequire(import.meta.url)('pino') as typeof import('pino')
  return pino(
    {
      level,
      base: null,
      redact: ['payload', 'data', '*.payload', '*.data', 'url', '*.url'],
      hooks: { streamWrite: redactLine },
    },
    pino.destination({ dest: 2, sync: true }),
  )
}

async function openConfiguredKeyStore(
  { store, secretFile }: Config['operator'],
  fetch: Fetch,
): Promise<KeyStore> {
  const { openKeyStore } = await import('./adapters/keystore/client.ts')
  return openKeyStore({ url: required(store, 'key store', 'TABIB_KEY_STORE'), secretFile, fetch })
}

async function readTls({ ca, certificate, key }: TlsFiles): Promise<Tls> {
  const read = (file: string | undefined) =>
    file === undefined
      ? undefined
      : readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
          throw new TabibError(
            'CONFIG_INVALID',
            `cluster: the certificate ${file} cannot be read: ${cause.code}`,
          )
        })
  const [authority, cert, secret] = await Promise.all([read(ca), read(certificate), read(key)])
  return { ca: authority, cert, key: secret }
}

function required(url: string | undefined, system: string, variable: string): string {
  if (url !== undefined) return url
  throw new TabibError('CONFIG_INVALID', `no ${system} is configured`, {
    suggestions: [`export ${variable}=…`, 'tabib up    # a private sandbox, no configuration needed'],
  })
}
