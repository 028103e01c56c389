import type { Attachments } from '../../adapters/attachments/client.ts'
import type { Fetch } from '../../adapters/http/client.ts'
import type { Transaction } from '../../adapters/postgres/client.ts'
import type { Redis } from '../../adapters/redis/client.ts'
import type { Config } from '../../config.ts'
import type { Identifiers } from './identifiers.ts'

/** Whom to erase, as a participant sees them while it works. */
export interface Subject {
  tenantId: string
  /** Keyed: what is remembered. */
  hash: Buffer
  /** Stands in the subject's place in rows that are kept. */
  pseudonym: string
  /** The same and others, for where a name may be taken only once. */
  pseudonyms: readonly string[]
  identifiers: Identifiers
}

/** Rows by table, or by place in a store that has none. */
export type Rows = Record<string, number>

/** Stores beside Postgres. */
export interface Stores {
  readonly redis: Redis
  readonly attachments: Attachments | undefined
  /** Where statements lie, and the way there. */
  readonly config: Config
  fetch(tenantId: string): Fetch
}

/**
 * One store's part in an erasure. `erase` and `count` work in a transaction as `tabib_erasure` for the subject's tenant,
 * so that row-level security keeps them off every other; both may be called any number of times.
 */
export interface Participant {
  id: ParticipantId
  /** Steps of a stage are sent once every step before it is done. */
  stage: number
  /** Erases, and returns the rows that it changed. */
  erase(tx: Transaction, subject: Subject, stores: Stores): Promise<Rows>
  /** What is there still that an erasure would change. */
  count(tx: Transaction, subject: Subject): Promise<Rows>
  /** For what lies outside of Postgres; `erase` follows. A process may die anywhere in it. */
  outside?: {
    count(stores: Stores, subject: Subject): Promise<Rows>
    erase(stores: Stores, subject: Subject): Promise<void>
    /** Where the store stands now. */
    position(stores: Stores): Promise<string>
  }
}

export type ParticipantId =
  | 'virtual-care'
  | 'billing'
  | 'communication'
  | 'dispatch-log'
  | 'attachments'
  | 'statements'
  | 'events'
  | 'cache'

/** How many rows in all. */
export const total = (rows: Rows): number => Object.values(rows).reduce((sum, n) => sum + n, 0)
