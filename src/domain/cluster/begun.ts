import { createHash } from 'node:crypto'
import * as z from 'zod'
import type { Etcd } from '../../adapters/etcd/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import { EXIT } from '../../errors.ts'
import { appendLocked, lockAudit } from '../audit/append.ts'
import type { Operation } from '../audit/operation.ts'
import { storePrefix } from './observe.ts'

const operationSchema = z.object({
  runId: z.uuid(),
  actor: z.string(),
  actorProof: z.string().optional(),
  approver: z.string().optional(),
  context: z.string(),
  command: z.string(),
  argsRedacted: z.array(z.string()),
  planHash: z.string().optional(),
  reason: z.string().optional(),
  failureMode: z.string().optional(),
  targets: z.array(z.string()),
  version: z.string(),
})
const begunSchema = z.object({ at: z.iso.datetime(), operation: operationSchema })

/** Of which cluster. */
interface Place {
  namespace: string
  scope: string
}

// Whoever is at it holds the claim for no longer once they are gone.
const AT_WORK_MS = 120_000

const prefixOf = ({ namespace, scope }: Place): string => `/tabib/lead${storePrefix(namespace, scope)}begun/`

/** Writes into the store that a failover begins: the trail's database has no leader that could. It stays until `forgetBegun`. */
export async function noteBegun(store: Etcd, place: Place, operation: Operation): Promise<void> {
  const begun = { at: new Date().toISOString(), operation: operationSchema.parse(operation) }
  await store.put(`${prefixOf(place)}${operation.runId}`, JSON.stringify(begun))
}

/** The trail has it. */
export const forgetBegun = (store: Etcd, place: Place, runId: string): Promise<void> =>
  store.remove(`${prefixOf(place)}${runId}`)

/**
 * Takes into the trail what was begun and not ended: its process died, and nobody knows more than that it began. The same
 * again changes nothing. What is being done at this moment is left alone.
 *
 * @returns the runs that were taken.
 */
export async function takeBegun({ db }: { db: Database }, store: Etcd, place: Place): Promise<string[]> {
  const taken: string[] = []
  for (const [key, value] of await store.read(prefixOf(place))) {
    const { data: begun } = begunSchema.safeParse(parsed(value))
    if (!begun || Date.now() - Date.parse(begun.at) < AT_WORK_MS) continue
    const { at, operation } = begun
    const record = createHash('sha256').update(value).digest('hex')
    await db.transaction(async (tx) => {
      await lockAudit(tx)
      const known = await tx.query('select from tabib.audit where run_id = $1 limit 1', [operation.runId])
      if (known.length > 0) return
      const entry = { ...operation, journal: { record, at } }
      await appendLocked(tx, { ...entry, phase: 'before' })
      const ended = { outcome: 'failed', exitCode: EXIT.interrupted, errorCode: 'INTERRUPTED' } as const
      await appendLocked(tx, { ...entry, ...ended, phase: 'after' })
    })
    await store.remove(key)
    taken.push(operation.runId)
  }
  return taken
}

function parsed(value: string): unknown {
  try {
    return JSON.parse(value)
  } catch {
    return undefined
  }
}
