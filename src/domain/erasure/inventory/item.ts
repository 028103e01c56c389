import type { RETAINED } from '../../tenants/tenant.ts'
import type { ParticipantId } from '../participant.ts'

/**
 * What something stored says of a patient. `subject-key`: whose it is. `personal`: a fact that tells of somebody by
 * itself: a name, a number, free text. `pseudonymous`: of somebody, and tells who only through a subject key. `none`:
 * nothing of patients; staff and tenants are no patients.
 */
export type DataClass = 'subject-key' | 'personal' | 'pseudonymous' | 'none'

/**
 * How a subject's part is erased. `delete`: its rows go. `clear`: its values go and the row stays. `pseudonymise`: its
 * subject key is replaced by one that leads nowhere. `shred`: the key that it is encrypted with is destroyed. `expire`:
 * it ends by its retention, which is shorter than the legal deadline.
 */
export type Means = 'delete' | 'clear' | 'pseudonymise' | 'shred' | 'expire'

/** What holds for everything that lies together in one table, stream, cache or store. */
export interface Keeping {
  /**
   * How long it is kept where nobody asks for its erasure: an ISO 8601 duration from when it was written, what the
   * tenant says (`tenant:billing` is `privacy.retentionDays.billing` of its document), `until-erased`, or `for-good`.
   */
  retention: `P${string}` | `tenant:${(typeof RETAINED)[number]}` | 'until-erased' | 'for-good'
  /** Which law forbids to erase it before its retention is over; what is left then is pseudonymised. */
  hold?: string
  /** Left out where nothing in it is of a patient. */
  erasure?: { by: ParticipantId; how: Means }
}

/** A table's columns by class, each in one place. A column of JSON stands in `json` alone, by its paths. */
export interface TableInventory extends Keeping {
  subjectKey?: readonly string[]
  personal?: readonly string[]
  pseudonymous?: readonly string[]
  none?: readonly string[]
  /**
   * Column -> path -> class. A path is `patientId`, `lines[].code`, or `$` for a value without members; `*` stands for
   * any one key, and a `**` at the end for whatever is below. The most exact pattern counts.
   */
  json?: Readonly<Record<string, Readonly<Record<string, DataClass>>>>
}

/** A stream, a bucket, a family of keys, a folder: one class for all of it, the gravest. */
export interface PlaceInventory extends Keeping {
  class: DataClass
  /** What is in it. */
  holds: string
}

/** Everything that one service, or tabib itself, stores. */
export interface Inventory {
  /** The file, from the package root: where what is missing is to be added. */
  file: string
  /** By `schema.table`. Partitions belong to their table; views store nothing. */
  tables: Readonly<Record<string, TableInventory>>
  /** JetStream's streams by name; key-value buckets are `KV_…` and object stores `OBJ_…`. */
  streams: Readonly<Record<string, PlaceInventory>>
  /** Families of Redis keys, by a pattern with `*`. */
  caches: Readonly<Record<string, PlaceInventory>>
  /** What lies elsewhere: folders, buckets, backups. No check can look into all of them. */
  stores: Readonly<Record<string, PlaceInventory>>
}

/** One line of the inventory. */
export interface InventoryItem extends Keeping {
  service: string
  kind: 'column' | 'path' | 'stream' | 'cache' | 'store'
  /** `billing.charge.patient_id`, `billing.outbox.data: patientId`, `billing-evt`. */
  object: string
  class: DataClass
}

/** Every column of a table with its class; `json` for one that is classified by its paths. */
export function columnsOf(table: TableInventory): Map<string, DataClass | 'json'> {
  const columns = new Map<string, DataClass | 'json'>()
  const put = (names: readonly string[] = [], kind: DataClass | 'json') => {
    for (const name of names) columns.set(name, kind)
  }
  put(table.subjectKey, 'subject-key')
  put(table.personal, 'personal')
  put(table.pseudonymous, 'pseudonymous')
  put(table.none, 'none')
  put(Object.keys(table.json ?? {}), 'json')
  return columns
}
