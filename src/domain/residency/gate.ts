import { type Files, openFiles } from '../../adapters/files/client.ts'
import type { Fetch } from '../../adapters/http/client.ts'
import { openPatroni } from '../../adapters/patroni/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Config, Residency } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import { nearest } from '../../nearest.ts'
import type { GateState, Reading } from './judge.ts'
import {
  listManifests,
  newestLabel,
  noManifest,
  readManifest,
  readTrustedKeys,
  type SignedManifest,
} from './manifest.ts'
import { readTenancy } from './tenants.ts'

/** What residency is read from; an App is one. */
export interface ResidencyReader {
  db: Queryable
  config: Pick<Config, 'residency'>
  fetch(): Fetch
}

/**
 * Reads all that `judgeTarget` rests on, at once and within `limitMs`; what is not read by then counts as unread.
 * @throws TabibError CONFIG_INVALID, NOT_FOUND for a cluster that the configuration does not name.
 */
export async function readGateState(
  app: ResidencyReader,
  { target, backup, limitMs }: { target: string; backup?: string | undefined; limitMs: number },
): Promise<GateState> {
  const residency = requireResidency(app.config)
  const { patroni, scope } = findCluster(residency, target)
  using files = openFiles()
  const within = <T>(what: string, work: () => Promise<T>) => reading(what, work, limitMs)
  const [database, cluster, manifest] = await Promise.all([
    within('Postgres', () => readTenancy(app)),
    within('Patroni', () => openPatroni({ urls: patroni, fetch: app.fetch(), timeoutMs: limitMs }).cluster()),
    within('the folder of manifests', () => readBackup(files, residency, backup)),
  ])
  return {
    target,
    scope,
    regions: Object.keys(residency.regions),
    database,
    cluster,
    manifest,
    nowMs: Date.now(),
    maxManifestAgeMs: residency.maxManifestAge,
  }
}

/** @throws TabibError CONFIG_INVALID when the context says nothing of regions. */
export function requireResidency({ residency }: Pick<Config, 'residency'>): Residency {
  if (residency) return residency
  throw new TabibError('CONFIG_INVALID', 'the configuration names no regions (residency.regions)', {
    suggestions: ['docs/residency.md'],
  })
}

/** @throws TabibError NOT_FOUND naming the cluster that was probably meant. */
export function findCluster({ clusters }: Residency, name: string): { patroni: string[]; scope: string } {
  const found = Object.hasOwn(clusters, name) ? clusters[name] : undefined
  if (found) return { patroni: found.patroni, scope: found.scope ?? name }
  const known = Object.keys(clusters)
  const meant = nearest(name, known)
  throw new TabibError(
    'NOT_FOUND',
    `no cluster "${name}"; residency.clusters has ${known.length > 0 ? known.join(', ') : 'none'}`,
    { suggestions: meant ? [`tabib residency gate --target ${meant}`] : [], context: { name } },
  )
}

/** The folder of manifests and the keys that are believed. @throws TabibError CONFIG_INVALID when either is not set. */
export function requireManifests({ manifests, trustedKeys }: Residency): { folder: string; keyFile: string } {
  if (manifests !== undefined && trustedKeys !== undefined) return { folder: manifests, keyFile: trustedKeys }
  const missing = manifests === undefined ? 'manifests' : 'trustedKeys'
  throw new TabibError('CONFIG_INVALID', `residency.${missing} is not set: no backup can be judged`, {
    suggestions: ['docs/residency.md'],
  })
}

/** What the manifests of all backups are read with. @throws TabibError NOT_FOUND where there is none, CONFIG_INVALID */
export async function beginBackups(files: Files, residency: Residency) {
  const { folder, keyFile } = requireManifests(residency)
  const [trusted, labels] = await Promise.all([readTrustedKeys(files, keyFile), listManifests(files, folder)])
  if (labels.length === 0) throw noManifest(folder)
  return { folder, trusted, labels }
}

/** What the work brings within the time, or the failure that it ended with. Bugs are thrown on. */
export async function reading<T>(what: string, work: () => Promise<T>, limitMs: number): Promise<Reading<T>> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new TabibError('TIMED_OUT', `${what} gave no answer within ${limitMs} ms`)),
      limitMs,
    )
  })
  try {
    return { read: true, value: await Promise.race([work(), late]) }
  } catch (error) {
    if (!(error instanceof TabibError)) throw error
    return { read: false, error }
  } finally {
    clearTimeout(timer)
  }
}

async function readBackup(
  files: Files,
  residency: Residency,
  backup: string | undefined,
): Promise<SignedManifest> {
  const { folder, keyFile } = requireManifests(residency)
  const [label, trusted] = await Promise.all([
    backup ?? newestLabel(files, folder),
    readTrustedKeys(files, keyFile),
  ])
  return readManifest(files, folder, label, trusted)
}
