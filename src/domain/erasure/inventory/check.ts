import type { Nats } from '../../../adapters/nats/client.ts'
import type { Database } from '../../../adapters/postgres/client.ts'
import { openRedis, pingRedis } from '../../../adapters/redis/client.ts'
import type { Finding } from '../../../finding.ts'
import type { FindingsReport, Rule } from '../../../findings-report.ts'
import { counted } from '../../../render.ts'
import { INVENTORY } from './index.ts'
import { columnsOf, type DataClass, type Inventory, type TableInventory } from './item.ts'
import {
  isSampled,
  type LiveColumn,
  type LiveTable,
  readOutlets,
  readTables,
  readValues,
  seesNothing,
} from './live.ts'
import { classifier, leavesOf, writtenPath } from './paths.ts'

const rule = (id: string, category: string, title: string): Rule => ({
  id: `erasure/${id}`,
  category,
  title,
})

const RULES: readonly Rule[] = [
  rule('unclassified-column', 'tables', 'every column is classified'),
  rule('unclassified-path', 'tables', 'every member of stored JSON is classified'),
  rule('json-in-text', 'tables', 'JSON that lies in a column of text is classified by its paths'),
  rule('computed', 'tables', 'what is computed from personal data is classified as personal'),
  rule('not-read', 'tables', 'the stored JSON could be read'),
  rule('large-object', 'tables', 'nothing lies in large objects'),
  rule('outlet', 'tables', 'no row leaves the database by a way that is not classified'),
  rule('unclassified-stream', 'streams', 'every stream and bucket is classified'),
  rule('unclassified-key', 'caches', 'every Redis key is of a classified family'),
  rule('gone', 'inventory', 'everything that is classified exists'),
]

/** What is looked into. Without NATS or Redis their rules do not run. */
export interface InventorySystems {
  db: Database
  nats: Nats | undefined
  /** URLs by the role they play: cache, queue. One server is looked into once. */
  redis: Readonly<Record<string, string | undefined>>
}

/**
 * Holds the inventory against what there is: every table, column and member of stored JSON, every stream, every Redis
 * key. Reads only, and keeps and shows no value.
 *
 * @throws TabibError POSTGRES_UNREACHABLE, NATS_UNREACHABLE, REDIS_UNREACHABLE: what was not looked into has not passed.
 */
export async function checkInventory(
  { db, nats, redis }: InventorySystems,
  { allRows, signal }: { allRows: boolean; signal: AbortSignal },
): Promise<Pick<FindingsReport, 'rules' | 'findings' | 'facts'>> {
  const tables = await readTables(db)
  const json = await checkJson(db, tables, { allRows, signal })
  const streams = nats === undefined ? undefined : (await nats.streams()).map(({ config }) => config.name)
  const keys = await checkKeys(redis, signal)
  const findings = [
    ...tables.flatMap(checkTable),
    ...json.findings,
    ...(await checkOutlets(db)),
    ...(streams ?? []).flatMap(checkStream),
    ...(keys?.findings ?? []),
    ...gone(tables, streams),
  ]
  const notAsked = { streams: streams === undefined && 'NATS', caches: keys === undefined && 'Redis' }
  return {
    rules: RULES.map((one) => {
      const system = notAsked[one.category as keyof typeof notAsked]
      return system ? { ...one, notRun: `no ${system} is configured` } : one
    }),
    findings,
    facts: {
      tables: tables.length,
      columns: tables.reduce((sum, { columns }) => sum + columns.length, 0),
      values: json.values,
      ...(json.sampled.length > 0 ? { readInPart: json.sampled } : {}),
      ...(streams ? { streams: streams.length } : {}),
      ...(keys ? { keys: keys.seen } : {}),
    },
  }
}

function checkTable(live: LiveTable): Finding[] {
  const found = inventoryOf(live.name)
  if (found === undefined) {
    // All that it has it inherits, or it has nothing.
    if (live.columns.length === 0) return []
    const { file } = ownerOf(live.name)
    return [
      finding('unclassified-column', live.name, `the ${live.kind} is not in the inventory`, {
        evidence: { columns: live.columns.map(({ name }) => name) },
        fix: `add '${live.name}' to ${file}, or drop it`,
        file,
      }),
    ]
  }
  const { file, table } = found
  const classes = columnsOf(table)
  return live.columns.flatMap(({ name, holds, computedFrom }) => {
    const object = `${live.name}.${name}`
    const own = classes.get(name)
    if (own === undefined) {
      return [
        finding('unclassified-column', object, `the column of the ${live.kind} is not classified`, {
          fix: `add '${name}' to '${live.name}' in ${file}${holds === 'json' ? ', under json by its paths' : ''}`,
          file,
        }),
      ]
    }
    if (holds === 'json' && own !== 'json') {
      return [
        finding('unclassified-path', object, `it holds JSON and is classified as ${own} as a whole`, {
          fix: `move '${name}' of '${live.name}' to json in ${file}, with a class for each path`,
          file,
        }),
      ]
    }
    const sources = computedFrom.filter(
      (source) => gravity(classOf(table, source)) > gravity(classOf(table, name)),
    )
    if (sources.length === 0) return []
    return [
      finding(
        'computed',
        object,
        `it is computed from ${sources.join(', ')}, and classified as less: ${classOf(table, name)}`,
        { fix: `classify '${name}' of '${live.name}' as ${classOf(table, sources[0]!)} in ${file}`, file },
      ),
    ]
  })
}

const GRAVITY: readonly DataClass[] = ['none', 'pseudonymous', 'subject-key', 'personal']
const gravity = (kind: DataClass): number => GRAVITY.indexOf(kind)

/** Of a column of JSON the gravest of its paths. */
function classOf(table: TableInventory, column: string): DataClass {
  const own = columnsOf(table).get(column) ?? 'none'
  if (own !== 'json') return own
  return Object.values(table.json![column]!).reduce((a, b) => (gravity(b) > gravity(a) ? b : a), 'none')
}

const PATHS_SHOWN = 25

async function checkJson(
  db: Database,
  tables: readonly LiveTable[],
  { allRows, signal }: { allRows: boolean; signal: AbortSignal },
): Promise<{ findings: Finding[]; values: number; sampled: string[] }> {
  const findings: Finding[] = []
  const sampled: string[] = []
  let values = 0
  for (const live of tables) {
    const found = inventoryOf(live.name)
    for (const column of live.columns) {
      const read = readingOf(column, found?.table)
      if (read === undefined) continue
      const object = `${live.name}.${column.name}`
      const notRead = (why: string, fix: string | null) =>
        findings.push(finding('not-read', object, why, { severity: 'warning', fix }))
      if (!column.readable) {
        if (read === 'declared')
          notRead('this login may not read it', `grant select on ${live.name} to tabib_auditor`)
        continue
      }
      const known = classifier(found?.table.json?.[column.name] ?? {})
      const unknown = new Set<string>()
      let seen = 0
      const that = read === 'undeclared' ? `~ '^\\s*[[{]'` : undefined
      for await (const batch of readValues(db, live, column, { all: allRows, ...(that ? { that } : {}) })) {
        signal.throwIfAborted()
        seen += batch.length
        for (const text of batch) {
          const value = parsed(text)
          if (value === undefined || (read === 'undeclared' && typeof value !== 'object')) continue
          for (const path of leavesOf(value)) {
            if (unknown.size <= PATHS_SHOWN && known(path) === undefined) unknown.add(writtenPath(path))
          }
        }
      }
      values += seen
      if (isSampled(live, allRows)) sampled.push(object)
      if (
        seen === 0 &&
        read === 'declared' &&
        live.guarded &&
        live.bytes > 0 &&
        (await seesNothing(db, live))
      )
        notRead(
          'no row could be read, and the table is not empty',
          `a policy for tabib_relay on ${live.name}`,
        )
      if (unknown.size === 0) continue
      const { file } = ownerOf(live.name)
      const paths = [...unknown].slice(0, PATHS_SHOWN).sort()
      findings.push(
        finding(
          read === 'declared' ? 'unclassified-path' : 'json-in-text',
          object,
          `${counted(paths.length, 'member')}${unknown.size > PATHS_SHOWN ? ' and more' : ''} of its JSON ${paths.length === 1 ? 'is' : 'are'} not classified`,
          { evidence: { paths }, fix: `add them under json to '${live.name}' in ${file}`, file },
        ),
      )
    }
  }
  return { findings, values, sampled }
}

/** Whether a column's values are read: those declared as JSON, and text that may be JSON and is not personal as a whole. */
function readingOf(
  { name, holds }: LiveColumn,
  table: TableInventory | undefined,
): 'declared' | 'undeclared' | undefined {
  const own = table && columnsOf(table).get(name)
  if (own === 'json') return 'declared'
  // What is not classified at all is told as that.
  if (own === undefined || own === 'personal' || holds !== 'text') return undefined
  return 'undeclared'
}

function parsed(text: string | Buffer): unknown {
  try {
    return JSON.parse(text.toString())
  } catch {
    return undefined
  }
}

async function checkOutlets(db: Database): Promise<Finding[]> {
  const { publications, slots, largeObjects } = await readOutlets(db)
  const file = INVENTORY.tabib!.file
  const outlets = [
    ...publications.map((name) => `publication ${name}`),
    ...slots.map((name) => `replication slot ${name}`),
  ]
  return [
    ...outlets
      .filter((name) => INVENTORY.tabib!.stores[name] === undefined)
      .map((name) =>
        finding('outlet', name, 'rows leave the database by it, and nothing says how they are erased there', {
          fix: `add '${name}' to stores in ${file}, or drop it`,
          file,
        }),
      ),
    ...(largeObjects === 0
      ? []
      : [
          finding(
            'large-object',
            'pg_largeobject',
            `${counted(largeObjects, 'large object')}, which nobody erases`,
            {
              fix: 'move what is in them to a table, then: vacuumlo',
            },
          ),
        ]),
  ]
}

function checkStream(name: string): Finding[] {
  if (Object.values(INVENTORY).some(({ streams }) => streams[name] !== undefined)) return []
  const what = name.startsWith('KV_') ? 'bucket' : name.startsWith('OBJ_') ? 'object store' : 'stream'
  const owner = Object.entries(INVENTORY).find(([service]) => name.includes(service))?.[1] ?? INVENTORY.tabib!
  return [
    finding('unclassified-stream', name, `the ${what} is not in the inventory`, {
      fix: `add '${name}' to streams in ${owner.file}`,
      file: owner.file,
    }),
  ]
}

const SCANS_AT_MOST = 1_000
const KEYS_A_SCAN = 1_000

async function checkKeys(
  servers: InventorySystems['redis'],
  signal: AbortSignal,
): Promise<{ findings: Finding[]; seen: number } | undefined> {
  const roles = serversOf(servers)
  if (roles.size === 0) return undefined
  const families = Object.values(INVENTORY).flatMap(({ caches }) => Object.keys(caches).map(globbed))
  const findings: Finding[] = []
  let seen = 0
  for (const [url, of] of roles) {
    const redis = openRedis({ url })
    await using _closed = { [Symbol.asyncDispose]: async () => redis.disconnect() }
    await pingRedis(redis)
    // By what they begin with: a key may name somebody.
    const unknown = new Map<string, number>()
    let cursor = '0'
    for (let scan = 0; scan < SCANS_AT_MOST; scan++) {
      signal.throwIfAborted()
      const [next, keys] = await redis.scan(cursor, 'COUNT', KEYS_A_SCAN)
      seen += keys.length
      for (const key of keys) {
        if (families.some((family) => family.test(key))) continue
        const family = familyOf(key)
        unknown.set(family, (unknown.get(family) ?? 0) + 1)
      }
      cursor = next
      if (cursor === '0') break
    }
    for (const [family, count] of unknown) {
      findings.push(
        finding(
          'unclassified-key',
          family,
          `${counted(count, 'key')} in Redis (${of.join(', ')}) are of no family in the inventory`,
          {
            fix: `add '${family}' to caches in the file of the service that writes it`,
          },
        ),
      )
    }
  }
  return { findings, seen }
}

/** Each server once, with all the roles that it plays. */
export function serversOf(redis: InventorySystems['redis']): Map<string, string[]> {
  const servers = new Map<string, string[]>()
  for (const [role, url] of Object.entries(redis)) {
    if (url !== undefined) servers.set(url, [...(servers.get(url) ?? []), role])
  }
  return servers
}

/** `*` is one word, at the end any number of them; `{a,b}` is either. */
const globbed = (pattern: string): RegExp => {
  const source = pattern
    .replace(/[.+?^$()|[\]\\]/g, '\\$&')
    .replace(/\*$/, '[^]*')
    .replace(/(?<!\])\*/g, '[^:]*')
    .replace(/\{([^}]*)\}/g, (_, either: string) => `(${either.replaceAll(',', '|')})`)
  return new RegExp(`^${source}$`)
}

/** The words that a key begins with. */
function familyOf(key: string): string {
  const words = key.split(':')
  const first = words.findIndex((word) => !/^[A-Za-z_-]{1,40}$/.test(word))
  return first === -1 && words.length > 1
    ? `${words.slice(0, -1).join(':')}:*`
    : `${words.slice(0, Math.max(0, first)).join(':')}*`
}

function gone(tables: readonly LiveTable[], streams: readonly string[] | undefined): Finding[] {
  const live = new Map(tables.map((table) => [table.name, table]))
  return Object.values(INVENTORY).flatMap((inventory) => {
    const { file } = inventory
    const missing = (object: string, what: string) =>
      finding('gone', object, `the inventory has it, and there is no such ${what}`, {
        fix: `take '${object}' out of ${file}`,
        file,
      })
    return [
      ...Object.entries(inventory.tables).flatMap(([name, table]) => {
        const found = live.get(name)
        if (found === undefined) return [missing(name, 'table')]
        const columns = new Set(found.columns.map((column) => column.name))
        return [...columnsOf(table).keys()]
          .filter((column) => !columns.has(column))
          .map((column) => missing(`${name}.${column}`, 'column'))
      }),
      ...(streams === undefined ? [] : Object.keys(inventory.streams))
        .filter((name) => !streams!.includes(name))
        .map((name) => missing(name, 'stream')),
    ]
  })
}

function inventoryOf(name: string): { file: string; table: TableInventory } | undefined {
  for (const { file, tables } of Object.values(INVENTORY)) {
    const table = tables[name]
    if (table !== undefined) return { file, table }
  }
  return undefined
}

/** Whose file a table would stand in. */
function ownerOf(name: string): Inventory {
  const schema = name.split('.')[0]!.replace('_', '-')
  return INVENTORY[schema] ?? INVENTORY.tabib!
}

function finding(
  id: string,
  object: string,
  message: string,
  {
    severity = 'error',
    evidence = {},
    fix = null,
    file,
  }: {
    severity?: Finding['severity']
    evidence?: Record<string, unknown>
    fix?: string | null
    file?: string
  },
): Finding {
  return {
    id: `erasure/${id}`,
    check: 'erasure inventory',
    severity,
    object,
    message,
    evidence,
    fix,
    runbook: null,
    cacheKey: `erasure/${id}:${object}`,
    waived: false,
    ...(file === undefined ? {} : { location: { file } }),
  }
}
