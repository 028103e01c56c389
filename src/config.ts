import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { parse as parseYaml } from 'yaml'
import * as z from 'zod'
import { networksOverlap } from './adapters/http/client.ts'
import { SIGNING_ALGORITHMS, type SigningAlgorithm } from './adapters/keystore/client.ts'
import { hostUrls, SESSION_ATTRS } from './adapters/postgres/client.ts'
import type { KeyPolicy } from './domain/keys/phase.ts'
import { TabibError } from './errors.ts'
import { SERVICES, type Service } from './service.ts'

// A hundred years. What is longer is a slip, and no date can be reckoned from it.
const LONGEST_MS = 36_525 * 86_400_000

const duration = z
  .string()
  .regex(/^\d+(ms|s|m|h|d)$/, 'a duration such as 500ms, 30s, 15m, 24h or 7d')
  .refine((text) => !(millisecondsOf(text)! > LONGEST_MS), {
    error: 'a duration of a hundred years at the most',
  })
  .transform(parseDuration)

const seconds = duration.transform((ms) => Math.ceil(ms / 1_000))

const identifier = z
  .string()
  .regex(/^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$/, 'a table or column name')

const outboxMapping = z.strictObject({
  table: identifier,
  columns: z
    .strictObject({
      seq: identifier,
      id: identifier,
      xid: identifier.nullable(),
      tenant_id: identifier,
      aggregate_type: identifier,
      aggregate_id: identifier,
      type: identifier,
      data: identifier,
      headers: identifier.nullable(),
      subject: identifier.nullable(),
      occurred_at: identifier,
      created_at: identifier,
    })
    .partial()
    .default({}),
})
export type OutboxMapping = z.output<typeof outboxMapping>

const url = (...protocols: string[]) =>
  z
    .string()
    .refine(
      (text) => text.split(',').every((one) => protocols.some((p) => one.trim().startsWith(`${p}://`))),
      {
        error: `a URL starting with ${protocols.map((p) => `${p}://`).join(' or ')}`,
      },
    )

const restApi = z
  .url({ protocol: /^https?$/, error: 'a URL such as http://10.20.0.11:8008' })
  .refine((text) => !URL.canParse(text) || new URL(text).username + new URL(text).password === '', {
    error: 'no user and password, which errors would print',
  })

// An address of these leads to an IPv4 one: mapped (RFC 4291), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056).
const TRANSLATED = ['::ffff:0:0/96', '64:ff9b::/96', '64:ff9b:1::/48', '2002::/16']

/** Several hosts are written as libpq writes them: `postgres://a:5432,b:5432/db`. */
const databaseUrl = z
  .string()
  .refine((text) => hostUrls(text).every((one) => /^postgres(ql)?:\/\//.test(one) && URL.canParse(one)), {
    error: 'a URL starting with postgres:// or postgresql://',
  })
  .refine((text) => SESSION_ATTRS.includes(/[?&]target_session_attrs=([^&#]*)/.exec(text)?.[1] ?? 'any'), {
    error: `a URL whose target_session_attrs is one of ${SESSION_ATTRS.join(', ')}`,
  })

const pgbouncerUrl = z.string().refine((text) => /^postgres(ql)?:\/\//.test(text) && URL.canParse(text), {
  error: 'the URL of one pgbouncer, such as postgres://stats@127.0.0.1:6432/pgbouncer',
})

const network = z
  .union([z.cidrv4(), z.cidrv6()], { error: 'a network such as 10.20.0.0/16 or 2001:db8::/48' })
  // Registries give no country more in one piece.
  .refine((cidr) => Number(cidr.split('/')[1]) >= (cidr.includes(':') ? 16 : 8), {
    error: 'too wide for a region: an IPv4 network has at least /8, one of IPv6 /16',
  })
  .refine((cidr) => !cidr.includes(':') || !TRANSLATED.some((one) => networksOverlap(cidr, one)), {
    error: 'it leads to IPv4 addresses: list those instead',
  })

const regions = z.record(z.string(), z.array(network)).check(({ value, issues }) => {
  const fail = (message: string) => issues.push({ code: 'custom', input: value, message })
  const all = Object.entries(value).flatMap(([name, own]) => own.map((cidr) => ({ name, cidr })))
  if (Object.keys(value).length === 0) fail('at least one region')
  for (const name of Object.keys(value)) {
    if (!/^[A-Za-z0-9][\w.:/-]{0,63}$/.test(name)) fail(`"${name}" is no name of a region, such as af-kabul`)
  }
  for (const [i, one] of all.entries()) {
    for (const other of all.slice(i + 1)) {
      if (one.name === other.name || !networksOverlap(one.cidr, other.cidr)) continue
      fail(
        `${one.cidr} of ${one.name} and ${other.cidr} of ${other.name} overlap: an address would be in both`,
      )
    }
  }
})

/** Where data may live: which regions there are, and what runs in them. See docs/residency.md. */
const residency = z.strictObject({
  regions,
  /** Where traffic may go that carries no tenant's data: pager, Patroni, key management. */
  platform: z.array(network).default([]),
  clusters: z
    .record(z.string(), z.strictObject({ scope: z.string().optional(), patroni: z.array(restApi).min(1) }))
    .default({}),
  /** Folder of the backups' signed manifests. */
  manifests: z.string().optional(),
  /** JWK Set (RFC 7517) of the keys whose manifests are believed. */
  trustedKeys: z.string().optional(),
  maxManifestAge: duration.default(parseDuration('26h')),
  /** JWK Set of the operators, by which breaking the glass is verified where no database can be asked. */
  operators: z.string().optional(),
  /** Folder of what was done while no database took writes, until `residency journal` has taken it into the audit. */
  journal: z.string().optional(),
  /** Network policies in force, for `residency check`. */
  policies: z.array(z.string()).default([]),
})
export type Residency = z.output<typeof residency>

/** Files in PEM: the authority that signed a server's certificate, and what tabib shows it of itself. */
const tlsFiles = z
  .strictObject({ ca: z.string().optional(), certificate: z.string().optional(), key: z.string().optional() })
  .refine(({ certificate, key }) => (certificate === undefined) === (key === undefined), {
    message: 'certificate and key belong together',
  })
export type TlsFiles = z.output<typeof tlsFiles>

/** The Patroni cluster that this context's Postgres is. See docs/cluster.md. */
const cluster = z.strictObject({
  /** REST API of its members; any that answers will do. */
  patroni: z.array(restApi).min(1),
  /** Client URLs of etcd: without them what only the store knows (the synchronous standby) cannot be judged. */
  etcd: z.array(restApi).default([]),
  /** File with the `user:password` that etcd wants: to read below `namespace`, and to write below `/tabib/`. */
  etcdCredentialsFile: z.string().optional(),
  /** Patroni's namespace in the store. */
  namespace: z.string().regex(/^\/.+/, 'a path such as /service').default('/service'),
  /** File with the `user:password` that Patroni wants of who changes something. */
  credentialsFile: z.string().optional(),
  /** Of Patroni's REST API, and of etcd where that has none of its own below. */
  tls: tlsFiles.optional(),
  etcdTls: tlsFiles.optional(),
})
export type ClusterConfig = z.output<typeof cluster>

const contextSchema = z.strictObject({
  production: z.boolean().optional(),
  database: z
    .strictObject({
      url: databaseUrl.optional(),
      urlFile: z.string().optional(),
      ownerUrl: databaseUrl.optional(),
      ownerUrlFile: z.string().optional(),
      /** Admin console of the pgbouncer in front of it. */
      pgbouncerUrl: pgbouncerUrl.optional(),
      pgbouncerUrlFile: z.string().optional(),
    })
    .default({}),
  nats: z
    .strictObject({
      url: url('nats', 'tls', 'ws', 'wss').optional(),
      urlFile: z.string().optional(),
      /** Monitoring ports of the servers (http), which tell each one's clock. */
      monitor: z.array(restApi).default([]),
    })
    .prefault({}),
  redis: z
    .strictObject({
      url: url('redis', 'rediss').optional(),
      urlFile: z.string().optional(),
      cacheUrl: url('redis', 'rediss').optional(),
    })
    .default({}),
  pager: z
    .strictObject({
      alertmanagerUrl: url('http', 'https').optional(),
      webhookUrl: url('http', 'https').optional(),
      webhookTokenFile: z.string().optional(),
    })
    .default({}),
  /** Whether severe operations want a second person's consent. */
  approvals: z.enum(['optional', 'required']).default('optional'),
  /** Where private keys live; see docs/approvals.md. */
  keys: z
    .strictObject({
      store: z.string().optional(),
      secretFile: z.string().optional(),
      algorithm: z.enum(SIGNING_ALGORITHMS).default('ES256'),
      /** When a key is replaced by itself. */
      maxAge: seconds.default(30 * 86_400),
      overlap: seconds.default(1_200),
      cacheAge: seconds.default(600),
      skew: seconds.default(30),
      tokenLifetime: seconds.default(300),
      /** `attesting`: every verifier tells what it holds; `any`: some may not, and their caches are waited for. */
      verifiers: z.enum(['any', 'attesting']).default('any'),
    })
    .prefault({}),
  /** Where the key lies by which the operator at this machine proves who they are; `keys` when left out. */
  operator: z.strictObject({ store: z.string().optional(), secretFile: z.string().optional() }).default({}),
  outbox: z
    .strictObject({
      /** What happens to later events of an aggregate whose event is poison: held in order, or relayed past it. */
      poison: z.enum(['hold', 'skip']).default('hold'),
      retention: duration.default(parseDuration('7d')),
      dedupeWindow: duration.default(parseDuration('2m')),
      /** JetStream replicas of the streams that `migrate up` makes. */
      replicas: z.int().min(1).max(5).default(1),
      tables: z.partialRecord(z.enum(SERVICES), outboxMapping).default({}),
      /** Where accepted writes wait while Postgres takes none; without it they are refused (503). */
      preflight: z
        .strictObject({
          folder: z.string(),
          /** Of all that waits together. */
          maxBytes: z
            .int()
            .min(65_536)
            .default(64 << 20),
        })
        .optional(),
    })
    .prefault({}),
  ledger: z
    .strictObject({
      /** Folder of the ledger's seals, outside the database and out of its administrators' reach. */
      seals: z.string().optional(),
    })
    .prefault({}),
  erasure: z
    .strictObject({
      /** File of the secret from which subjects' keyed hashes and the key of their keys derive; see docs/erasure.md. */
      secretFile: z.string().optional(),
      /** Folder of the files that were sent in conversations. */
      attachments: z.string().optional(),
      /** Registered operators who may order erasures; nobody, when left out. */
      authorities: z.array(z.string().min(1)).default([]),
    })
    .prefault({}),
  messaging: z
    .strictObject({
      sms: z.strictObject({ url: url('http', 'https'), tokenFile: z.string().optional() }).optional(),
      push: z
        .strictObject({
          url: url('http', 'https'),
          project: z.string().min(1),
          tokenFile: z.string().optional(),
        })
        .optional(),
      email: z
        .strictObject({
          url: url('smtp', 'smtps'),
          from: z.string().regex(/@[\w.-]+>?$/, 'must be an address'),
          credentialsFile: z.string().optional(),
        })
        .optional(),
      /** Hosts that links in messages may lead to: `clinic.example`. */
      linkHosts: z
        .array(z.string().regex(/^[a-z0-9.-]{1,100}$/, 'must be a host in small letters'))
        .default([]),
      /** Log files that are read for patient data. */
      logs: z.array(z.string()).default([]),
      /** How long a message is tried that does not say itself until when it is worth sending. */
      maxAge: duration.default(parseDuration('24h')),
    })
    .prefault({}),
  statements: z
    .strictObject({
      /** Where PDFs go: `file:<folder>` or `s3:https://<endpoint>/<bucket>`; see docs/statements.md. */
      store: z.string().optional(),
      /** AWS credentials of an S3. */
      secretFile: z.string().optional(),
      /** Resident memory, in MiB, at which a process that renders is ended. */
      memoryLimit: z.int().min(64).max(65_536).default(512),
      /** How long one account may take without a line more. */
      accountTimeout: duration.default(parseDuration('2m')),
      /** How long a run may take before billing/FM-11 fires. */
      runTimeout: duration.default(parseDuration('4h')),
    })
    .prefault({}),
  worker: z
    .strictObject({
      host: z.string().default('127.0.0.1'),
      port: z.int().min(0).max(65535).default(9464),
      drainTimeout: duration.default(parseDuration('20s')),
    })
    .prefault({}),
  api: z
    .strictObject({
      host: z.string().default('127.0.0.1'),
      port: z.int().min(0).max(65535).default(9470),
    })
    .prefault({}),
  clocks: z
    .strictObject({
      /** Sets the clock of one host at once: program and arguments, `{host}` in them is its name. */
      step: z.array(z.string()).min(1).optional(),
    })
    .prefault({}),
  residency: residency.optional(),
  cluster: cluster.optional(),
})

const fileSchema = z.strictObject({
  currentContext: z.string().optional(),
  runbookBaseUrl: url('http', 'https').optional(),
  contexts: z.record(z.string(), contextSchema).default({}),
})

export interface Config {
  /** The context's name; `env` when the servers came from TABIB_*_URL, `none` when there are none. */
  readonly context: string
  /** A production context asks for a fresh acknowledgement; a URL that is not loopback and has no context counts as one. */
  readonly production: boolean
  readonly databaseUrl: string | undefined
  /** Owner of the schemas, for `migrate` alone; the database URL when not set. */
  readonly ownerDatabaseUrl: string | undefined
  /** Admin console of pgbouncer, where there is one. */
  readonly pgbouncerUrl: string | undefined
  readonly natsUrl: string | undefined
  /** Monitoring ports of the NATS servers. */
  readonly natsMonitorUrls: readonly string[]
  readonly redisUrl: string | undefined
  readonly redisCacheUrl: string | undefined
  readonly pager: { alertmanagerUrl?: string; webhookUrl?: string; webhookTokenFile?: string }
  readonly approvalsRequired: boolean
  readonly keys: {
    /** Where private keys live, and the file that holds what opens it. */
    store: string | undefined
    secretFile: string | undefined
    /** What rotations are planned with where a command does not say otherwise. */
    algorithm: SigningAlgorithm
    policy: KeyPolicy
    maxAgeS: number
  }
  /** The key store of the operator who runs this, where it is another one. */
  readonly operator: { store: string | undefined; secretFile: string | undefined }
  readonly outbox: {
    poison: 'hold' | 'skip'
    retentionMs: number
    dedupeWindowMs: number
    replicas: number
    tables: Partial<Record<Service, OutboxMapping>>
    /** Folder, and how many bytes may wait in it. */
    readonly preflight?: { folder: string; maxBytes: number } | undefined
  }
  /** Folder of the ledger's seals; without one nothing is sealed. */
  readonly ledger: { seals: string | undefined }
  readonly erasure: {
    /** Without one nobody can be erased, and nothing be sealed for a subject. */
    secretFile: string | undefined
    /** Folder of the files that were sent in conversations; without one there are none. */
    attachments: string | undefined
    /** Names of the operators whose orders count. */
    authorities: readonly string[]
  }
  /** Each channel's provider, where there is one; hosts that links lead to; log files that are read for patient data. */
  readonly messaging: {
    sms: { url: string; tokenFile: string | undefined } | undefined
    push: { url: string; project: string; tokenFile: string | undefined } | undefined
    email: { url: string; from: string; credentialsFile: string | undefined } | undefined
    linkHosts: readonly string[]
    logs: readonly string[]
    maxAgeMs: number
  }
  readonly worker: { host: string; port: number; drainTimeoutMs: number }
  readonly statements: {
    store: string | undefined
    secretFile: string | undefined
    memoryLimitMib: number
    accountTimeoutMs: number
    runTimeoutMs: number
  }
  /** What sets the clock of a host; program and arguments. */
  readonly clockStep: readonly string[] | undefined
  /** Where `api run` listens. */
  readonly api: { host: string; port: number }
  /** Absent: nothing is known of regions, and no connection is bounded by them. */
  readonly residency: Residency | undefined
  /** The Patroni cluster behind `databaseUrl`, where it is one. */
  readonly cluster: ClusterConfig | undefined
  /** Where alert rules link their runbooks: a URL's base, or the repository-relative path when not set. */
  readonly runbookBaseUrl: string
  /** True when a context or an external URL was given: `up`, `drill` and benchmarks then refuse. */
  readonly external: boolean
}

export interface ConfigSources {
  env?: NodeJS.ProcessEnv
  cwd?: string
  /** `--context`; beats TABIB_CONTEXT and TABIB_*_URL. */
  context?: string | undefined
  /** `--database-url`; a password in it is refused. */
  databaseUrl?: string | undefined
  databaseUrlFile?: string | undefined
}

interface Problem {
  path: string
  message: string
}

/**
 * Reads the configuration: flags > environment > `tabib.yaml` in or above the working directory > the user's file in
 * the XDG directory > defaults.
 *
 * @throws TabibError CONFIG_INVALID with every problem at once, each with its path.
 */
export function loadConfig(sources: ConfigSources = {}): Config {
  const env = sources.env ?? process.env
  const problems: Problem[] = []
  const file = readConfigFile(sources.cwd ?? process.cwd(), env, problems)
  const explicitName = sources.context ?? env.TABIB_CONTEXT
  const fileContextName = explicitName ?? file.data.currentContext
  const envUrls = readEnvironment(env, problems)
  // An explicit --context beats TABIB_*_URL; TABIB_*_URL beats the file's current context.
  const useEnv = sources.context === undefined && Object.values(envUrls).some(Boolean)
  const name = useEnv ? (explicitName ?? 'env') : (fileContextName ?? 'none')
  const named = fileContextName === undefined ? undefined : file.data.contexts[fileContextName]
  if (fileContextName !== undefined && named === undefined && !(useEnv && explicitName === undefined)) {
    const known = Object.keys(file.data.contexts)
    problems.push({
      path: sources.context ? '--context' : env.TABIB_CONTEXT ? 'TABIB_CONTEXT' : 'currentContext',
      message: `no context "${fileContextName}"; known: ${known.length ? known.join(', ') : 'none'}`,
    })
  }
  const context = named ?? contextSchema.parse({})
  const beside = (path: string) => resolve(file.path ? dirname(file.path) : process.cwd(), path)
  const besideIf = (path: string | undefined) => path && beside(path)
  const secretFrom = (
    inline: string | undefined,
    path: string | undefined,
    where: string,
  ): string | undefined => {
    if (path === undefined) return inline
    const absolute = beside(path)
    try {
      return readFileSync(absolute, 'utf8').trim()
    } catch (error) {
      problems.push({
        path: where,
        message: `cannot read ${absolute}: ${(error as NodeJS.ErrnoException).code}`,
      })
      return undefined
    }
  }
  if (sources.databaseUrl !== undefined) checkFlagUrl(sources.databaseUrl, problems)
  // A path typed at the prompt is relative to where it was typed.
  const flagFile = sources.databaseUrlFile && resolve(sources.cwd ?? process.cwd(), sources.databaseUrlFile)
  const fromFlags = sources.databaseUrl ?? secretFrom(undefined, flagFile, '--database-url-file')
  const pick = (fromEnv: string | undefined, fromFile: string | undefined) =>
    useEnv && fromEnv ? fromEnv : fromFile
  const prefix = `contexts.${fileContextName}`
  const databaseUrl =
    fromFlags ??
    pick(
      envUrls.database,
      secretFrom(context.database.url, context.database.urlFile, `${prefix}.database.urlFile`),
    )
  const ownerDatabaseUrl =
    pick(
      envUrls.owner,
      secretFrom(context.database.ownerUrl, context.database.ownerUrlFile, `${prefix}.database.ownerUrlFile`),
    ) ?? databaseUrl
  const pgbouncer = pick(
    envUrls.pgbouncer,
    secretFrom(
      context.database.pgbouncerUrl,
      context.database.pgbouncerUrlFile,
      `${prefix}.database.pgbouncerUrlFile`,
    ),
  )
  const natsUrl = pick(
    envUrls.nats,
    secretFrom(context.nats.url, context.nats.urlFile, `${prefix}.nats.urlFile`),
  )
  const redisUrl = pick(
    envUrls.redis,
    secretFrom(context.redis.url, context.redis.urlFile, `${prefix}.redis.urlFile`),
  )
  const ownCluster: ClusterConfig = context.cluster ?? { patroni: [], etcd: [], namespace: '/service' }
  const [patroni, etcd] = (['patroni', 'etcd'] as const).map((system) => {
    const fromEnv = useEnv ? envUrls[system]?.split(',').map((one) => one.trim()) : undefined
    return (fromEnv ?? ownCluster[system]).map((one) => one.replace(/\/+$/, ''))
  }) as [string[], string[]]
  if (problems.length > 0) throw invalid(problems)

  const urls = [databaseUrl, natsUrl, redisUrl, ...patroni].filter((one) => one !== undefined)
  return Object.freeze({
    context: name,
    production: named?.production ?? urls.some((one) => !isLoopback(one)),
    databaseUrl,
    ownerDatabaseUrl,
    pgbouncerUrl: pgbouncer,
    natsUrl,
    natsMonitorUrls: context.nats.monitor,
    clockStep: context.clocks.step,
    redisUrl,
    redisCacheUrl: context.redis.cacheUrl ?? redisUrl,
    pager: {
      ...defined('alertmanagerUrl', env.TABIB_ALERTMANAGER_URL ?? context.pager.alertmanagerUrl),
      ...defined('webhookUrl', env.TABIB_PAGER_WEBHOOK_URL ?? context.pager.webhookUrl),
      ...defined(
        'webhookTokenFile',
        context.pager.webhookTokenFile && beside(context.pager.webhookTokenFile),
      ),
    },
    approvalsRequired: context.approvals === 'required',
    keys: {
      store: env.TABIB_KEY_STORE || context.keys.store,
      secretFile:
        env.TABIB_KEY_STORE_SECRET_FILE || (context.keys.secretFile && beside(context.keys.secretFile)),
      algorithm: context.keys.algorithm,
      policy: {
        overlapS: context.keys.overlap,
        cacheAgeS: context.keys.cacheAge,
        skewS: context.keys.skew,
        tokenLifetimeS: context.keys.tokenLifetime,
        allAttest: context.keys.verifiers === 'attesting',
      },
      maxAgeS: context.keys.maxAge,
    },
    operator: {
      store: env.TABIB_OPERATOR_KEY_STORE || context.operator.store,
      secretFile:
        env.TABIB_OPERATOR_KEY_STORE_SECRET_FILE ||
        (context.operator.secretFile && beside(context.operator.secretFile)),
    },
    outbox: {
      poison: context.outbox.poison,
      retentionMs: context.outbox.retention,
      dedupeWindowMs: context.outbox.dedupeWindow,
      replicas: context.outbox.replicas,
      tables: context.outbox.tables as Partial<Record<Service, OutboxMapping>>,
      preflight: preflightOf(env.TABIB_PREFLIGHT, context.outbox.preflight, beside),
    },
    ledger: {
      seals: env.TABIB_LEDGER_SEALS || (context.ledger.seals && beside(context.ledger.seals)),
    },
    erasure: {
      secretFile:
        env.TABIB_ERASURE_SECRET_FILE || (context.erasure.secretFile && beside(context.erasure.secretFile)),
      attachments:
        env.TABIB_ATTACHMENTS || (context.erasure.attachments && beside(context.erasure.attachments)),
      authorities:
        env.TABIB_ERASURE_AUTHORITIES?.split(',').map((one) => one.trim()) ?? context.erasure.authorities,
    },
    messaging: {
      sms: context.messaging.sms && {
        ...context.messaging.sms,
        tokenFile: besideIf(context.messaging.sms.tokenFile),
      },
      push: context.messaging.push && {
        ...context.messaging.push,
        tokenFile: besideIf(context.messaging.push.tokenFile),
      },
      email: context.messaging.email && {
        ...context.messaging.email,
        credentialsFile: besideIf(context.messaging.email.credentialsFile),
      },
      linkHosts: context.messaging.linkHosts,
      logs: context.messaging.logs.map(beside),
      maxAgeMs: context.messaging.maxAge,
    },
    statements: {
      store: env.TABIB_STATEMENT_STORE || storeBeside(context.statements.store, beside),
      secretFile:
        env.TABIB_STATEMENT_STORE_SECRET_FILE ||
        (context.statements.secretFile && beside(context.statements.secretFile)),
      memoryLimitMib: context.statements.memoryLimit,
      accountTimeoutMs: context.statements.accountTimeout,
      runTimeoutMs: context.statements.runTimeout,
    },
    worker: {
      host: context.worker.host,
      port: envUrls.workerPort ?? context.worker.port,
      drainTimeoutMs: context.worker.drainTimeout,
    },
    api: context.api,
    residency: context.residency && {
      ...context.residency,
      ...defined('manifests', context.residency.manifests && beside(context.residency.manifests)),
      ...defined('trustedKeys', context.residency.trustedKeys && beside(context.residency.trustedKeys)),
      ...defined('operators', context.residency.operators && beside(context.residency.operators)),
      ...defined('journal', context.residency.journal && beside(context.residency.journal)),
      policies: context.residency.policies.map(beside),
    },
    cluster:
      patroni.length === 0
        ? undefined
        : {
            ...ownCluster,
            patroni,
            etcd,
            ...defined('credentialsFile', ownCluster.credentialsFile && beside(ownCluster.credentialsFile)),
            ...defined(
              'etcdCredentialsFile',
              ownCluster.etcdCredentialsFile && beside(ownCluster.etcdCredentialsFile),
            ),
            ...defined('tls', ownCluster.tls && tlsBeside(ownCluster.tls, beside)),
            ...defined('etcdTls', ownCluster.etcdTls && tlsBeside(ownCluster.etcdTls, beside)),
          },
    runbookBaseUrl: file.data.runbookBaseUrl ?? '',
    external: urls.length > 0 || name !== 'none',
  })
}

function tlsBeside({ ca, certificate, key }: TlsFiles, beside: (path: string) => string): TlsFiles {
  return {
    ...defined('ca', ca && beside(ca)),
    ...defined('certificate', certificate && beside(certificate)),
    ...defined('key', key && beside(key)),
  }
}

function preflightOf(
  fromEnv: string | undefined,
  given: { folder: string; maxBytes: number } | undefined,
  beside: (path: string) => string,
): Config['outbox']['preflight'] {
  if (fromEnv) return { folder: resolve(fromEnv), maxBytes: given?.maxBytes ?? 64 << 20 }
  return given && { ...given, folder: beside(given.folder) }
}

/** Milliseconds of `500ms`, `30s`, `15m`, `24h` or `7d`. @throws TabibError USAGE, for more than a hundred years too. */
export function parseDuration(text: string): number {
  const ms = millisecondsOf(text)
  if (ms === undefined) {
    throw new TabibError('USAGE', `"${text}" is not a duration; write 500ms, 30s, 15m, 24h or 7d`)
  }
  if (ms > LONGEST_MS) throw new TabibError('USAGE', `"${text}" is longer than a hundred years`)
  return ms
}

function millisecondsOf(text: string): number | undefined {
  const [, amount, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(text) ?? []
  const ms = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit ?? '']
  return ms && Number(amount) * ms
}

function readConfigFile(cwd: string, env: NodeJS.ProcessEnv, problems: Problem[]) {
  const empty = fileSchema.parse({})
  const path = findConfigFile(cwd, env)
  if (path === undefined) return { data: empty, path }
  let raw: unknown
  try {
    raw = parseYaml(readFileSync(path, 'utf8')) ?? {}
  } catch (error) {
    problems.push({ path, message: (error as Error).message.split('\n')[0] ?? 'not readable as YAML' })
    return { data: empty, path }
  }
  const parsed = fileSchema.safeParse(raw)
  if (parsed.success) return { data: parsed.data, path }
  for (const issue of parsed.error.issues) {
    problems.push({ path: `${path}: ${issue.path.join('.') || '(root)'}`, message: issue.message })
  }
  return { data: empty, path }
}

function findConfigFile(cwd: string, env: NodeJS.ProcessEnv): string | undefined {
  if (env.TABIB_CONFIG) return resolve(cwd, env.TABIB_CONFIG)
  for (let dir = resolve(cwd); ; dir = dirname(dir)) {
    const path = join(dir, 'tabib.yaml')
    if (existsSync(path)) return path
    if (dirname(dir) === dir) break
  }
  const user = join(env.XDG_CONFIG_HOME ?? join(homedir(), '.config'), 'tabib', 'tabib.yaml')
  return existsSync(user) ? user : undefined
}

function readEnvironment(env: NodeJS.ProcessEnv, problems: Problem[]) {
  const read = (name: string, schema: z.ZodType<string>): string | undefined => {
    const value = env[name]
    if (!value) return undefined
    const parsed = schema.safeParse(value)
    if (!parsed.success) {
      for (const issue of parsed.error.issues)
        problems.push({ path: name, message: `must be ${issue.message}` })
    }
    return value
  }
  const port = env.TABIB_WORKER_PORT
  if (port && !/^\d{1,5}$/.test(port))
    problems.push({ path: 'TABIB_WORKER_PORT', message: `"${port}" is no port` })
  return {
    database: read('TABIB_DATABASE_URL', databaseUrl),
    owner: read('TABIB_OWNER_DATABASE_URL', databaseUrl),
    pgbouncer: read('TABIB_PGBOUNCER_URL', pgbouncerUrl),
    nats: read('TABIB_NATS_URL', url('nats', 'tls', 'ws', 'wss')),
    redis: read('TABIB_REDIS_URL', url('redis', 'rediss')),
    patroni: read('TABIB_PATRONI_URL', url('http', 'https')),
    etcd: read('TABIB_ETCD_URL', url('http', 'https')),
    workerPort: port ? Number(port) : undefined,
  }
}

function checkFlagUrl(text: string, problems: Problem[]): void {
  try {
    if (hostUrls(text).some((one) => new URL(one).password)) {
      problems.push({
        path: '--database-url',
        message:
          'holds a password, which other users of this machine can read; use --database-url-file or PGPASSFILE',
      })
    }
  } catch {
    problems.push({ path: '--database-url', message: 'is not a URL; write postgres://host:port/database' })
  }
}

function isLoopback(text: string): boolean {
  return text.split(',').every((one) => {
    const host = one.replace(/^\w+:\/\//, '').replace(/^[^@/]*@/, '')
    return /^(localhost|127(\.\d+){3}|\[::1\])(:|\/|$)/.test(host)
  })
}

/** A store's folder is relative to the file that names it, as every path there. */
const storeBeside = (store: string | undefined, beside: (path: string) => string) =>
  store?.replace(/^file:(.+)$/, (_, folder: string) => `file:${beside(folder)}`)

function defined<K extends string, V>(key: K, value: V | undefined): { [key in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [key in K]?: V })
}

function invalid(problems: Problem[]): TabibError {
  const lines = problems.map(({ path, message }) => `  ${path}: ${message}`)
  return new TabibError(
    'CONFIG_INVALID',
    `${problems.length} problem${problems.length === 1 ? '' : 's'} in the configuration:\n${lines.join('\n')}`,
    { context: { problems }, suggestions: ['docs/configuration.md'] },
  )
}
