import { type Files, openFiles } from '../../adapters/files/client.ts'
import type { Fetch } from '../../adapters/http/client.ts'
import { openPatroni } from '../../adapters/patroni/client.ts'
import type { Residency } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import type { Rule } from '../../findings-report.ts'
import { judgePolicies } from './egress.ts'
import { beginBackups, findCluster, type ResidencyReader, reading, requireResidency } from './gate.ts'
import { readJournal, takenRecords } from './journal.ts'
import { finding, judgeCluster, judgeIdentity, judgeManifest, judgeTenants, unread } from './judge.ts'
import { readManifest } from './manifest.ts'
import { readTenancy, type Tenancy } from './tenants.ts'

export interface ResidencyCheck {
  check: 'residency check'
  rules: readonly Rule[]
  findings: Finding[]
  /** How much was held against the allowlists. */
  facts: { tenants: number; clusters: number; backups: number; policies: number }
}

const LIMIT_MS = 3_000

const RULES: readonly Rule[] = Object.entries({
  settings: { 'not-configured': 'all that can be looked at is configured' },
  tenants: {
    'no-tenants': 'the database has tenants',
    'unknown-region': 'every region that is named exists',
  },
  clusters: {
    'cluster-unread': 'every cluster can be read',
    'wrong-cluster': 'every cluster is the one that is meant',
    'no-member': 'every cluster has members',
    untagged: 'everything says its region',
    disallowed: 'everything is in a region that all its tenants allow',
    'other-database': 'clusters and backups are of the database whose tenants are judged',
  },
  backups: {
    'manifest-unread': 'every backup has a manifest that is believed',
    'revoked-key': 'no manifest was signed with a revoked key',
    'stale-manifest': 'the newest manifest is fresh',
    'tenants-changed': 'the newest manifest was signed for the tenants of now',
  },
  journal: {
    'journal-unread': 'the journal can be read',
    'journal-untaken': 'the audit trail has whatever was done while no database took writes',
    'journal-broken':
      'every record of the journal is signed by two operators and follows from the one before it',
  },
  egress: {
    'policy-unread': 'every network policy can be read',
    'egress-open': 'no network policy opens more than tenants allow',
    'egress-to-pods': 'network policies open to networks, which have a region, and not to pods',
  },
}).flatMap(([category, titles]) =>
  Object.entries(titles).map(([name, title]) => ({ id: `residency/${name}`, category, title })),
)

/**
 * Where tenants' data is and could go, against where each allows it: members of every cluster, every backup's manifest,
 * the network policies. What cannot be read is a finding. Reads only.
 * @throws TabibError CONFIG_INVALID when no regions are configured; POSTGRES_UNREACHABLE …: without the tenants there is
 * nothing to judge by.
 */
export async function checkResidency(app: ResidencyReader): Promise<ResidencyCheck> {
  const residency = requireResidency(app.config)
  const tenancy = await readTenancy(app)
  const clusters = Object.keys(residency.clusters)
  using files = openFiles()
  const [ofClusters, backups, ofPolicies, ofJournal] = await Promise.all([
    Promise.all(clusters.map((name) => checkCluster(app.fetch(), residency, name, tenancy))),
    checkBackups(files, residency, tenancy),
    Promise.all(residency.policies.map((file) => checkPolicy(files, file, residency, tenancy))),
    checkJournal(app, residency.journal),
  ])
  return {
    check: 'residency check',
    rules: RULES,
    findings: [
      ...judgeTenants(tenancy.tenants, Object.keys(residency.regions)),
      ...notConfigured(residency),
      ...ofClusters.flat(),
      ...backups.findings,
      ...ofPolicies.flat(),
      ...ofJournal,
    ],
    facts: {
      tenants: tenancy.tenants.length,
      clusters: clusters.length,
      backups: backups.count,
      policies: residency.policies.length,
    },
  }
}

/**
 * Places where data is that some tenant does not allow, or that do not say where they are; undefined while nothing
 * amiss was seen and something could not be read, or nothing was there to look at.
 */
export async function misplaced(
  app: ResidencyReader,
): Promise<{ count: number | undefined; objects: string[]; unread: string[] }> {
  const { findings, facts } = await checkResidency(app)
  // A manifest that is not believed was read: nothing says where its backup is.
  const isAmiss = ({ id, evidence }: Finding) =>
    /\/(disallowed|untagged|unknown-region|wrong-cluster|other-database|revoked-key)$/.test(id) ||
    evidence.code === 'MANIFEST_INVALID'
  const objects = findings.filter(isAmiss).map(({ object }) => object)
  const unreadable = findings
    .filter((one) => /-unread$/.test(one.id) && !isAmiss(one))
    .map(({ object }) => object)
  const isKnown = objects.length > 0 || (unreadable.length === 0 && facts.clusters + facts.backups > 0)
  return { count: isKnown ? objects.length : undefined, objects, unread: unreadable }
}

/** What is not configured is not judged, and must not pass for what was found in order. */
function notConfigured({ clusters, manifests, policies }: Residency): Finding[] {
  const missing = [
    ...(Object.keys(clusters).length === 0 ? ['clusters'] : []),
    ...(manifests === undefined ? ['manifests'] : []),
    ...(policies.length === 0 ? ['policies'] : []),
  ]
  return missing.map((setting) =>
    finding({
      id: 'residency/not-configured',
      severity: 'warning',
      object: `residency.${setting}`,
      message: `it is not set, so no ${setting} were looked at`,
      fix: 'docs/residency.md',
    }),
  )
}

async function checkCluster(
  fetch: Fetch,
  residency: Residency,
  target: string,
  { tenants, systemIdentifier }: Tenancy,
): Promise<Finding[]> {
  const { patroni, scope } = findCluster(residency, target)
  const cluster = await reading(
    'Patroni',
    () => openPatroni({ urls: patroni, fetch, timeoutMs: LIMIT_MS }).cluster(),
    LIMIT_MS,
  )
  if (!cluster.read) return [unread('cluster', `cluster ${target}`, cluster.error)]
  return [
    ...judgeCluster(cluster.value, { target, scope, regions: Object.keys(residency.regions), tenants }),
    ...judgeIdentity(`cluster ${target}`, {
      database: systemIdentifier,
      cluster: cluster.value.systemIdentifier,
    }),
  ]
}

/** Every backup's regions; of their ages and tenant sets only the newest's, since the older are older by nature. */
async function checkBackups(
  files: Files,
  residency: Residency,
  tenancy: Tenancy,
): Promise<{ count: number; findings: Finding[] }> {
  if (residency.manifests === undefined) return { count: 0, findings: [] }
  const begun = await reading('the folder of manifests', () => beginBackups(files, residency), LIMIT_MS)
  if (!begun.read) return { count: 0, findings: [unread('manifest', 'the backups', begun.error)] }
  const { folder, trusted, labels } = begun.value
  const read = await Promise.all(
    labels.map(async (label) => ({
      label,
      manifest: await reading(label, () => readManifest(files, folder, label, trusted), LIMIT_MS),
    })),
  )
  const newest = Math.max(...read.map(({ manifest }) => (manifest.read ? manifest.value.iat : 0)))
  const findings = read.flatMap(({ label, manifest }) => {
    if (!manifest.read) return [unread('manifest', `backup ${label}`, manifest.error)]
    const judged = judgeManifest(manifest.value, {
      regions: Object.keys(residency.regions),
      tenants: tenancy.tenants,
      database: { read: true, value: tenancy },
      nowMs: Date.now(),
      maxManifestAgeMs: residency.maxManifestAge,
    })
    return [
      ...judged.filter(({ id }) => manifest.value.iat === newest || !OF_THE_NEWEST.has(id)),
      ...judgeIdentity(`backup ${label}`, {
        database: tenancy.systemIdentifier,
        backup: manifest.value.systemIdentifier,
      }),
    ]
  })
  return { count: labels.length, findings }
}

const OF_THE_NEWEST = new Set(['residency/stale-manifest', 'residency/tenants-changed'])

async function checkPolicy(
  files: Files,
  file: string,
  residency: Residency,
  { tenants }: Tenancy,
): Promise<Finding[]> {
  const text = await reading('the file', () => readPolicy(files, file), LIMIT_MS)
  if (!text.read) return [unread('policy', file, text.error)]
  return judgePolicies(text.value, file, { residency, tenants })
}

/** What was done while no database took writes, and is not in the audit trail yet. */
async function checkJournal(app: ResidencyReader, folder: string | undefined): Promise<Finding[]> {
  if (folder === undefined) return []
  const journal = await reading('the journal', () => readJournal(app, folder), LIMIT_MS)
  if (!journal.read) return [unread('journal', folder, journal.error)]
  const { records, broken } = journal.value
  const taken = await takenRecords(app, records)
  const missing = records.filter(({ runId }) => !taken.has(runId))
  return [
    ...missing.map(({ name, iss, target, iat }) =>
      finding({
        id: 'residency/journal-untaken',
        object: `record ${name}`,
        message: `${iss} broke the glass for ${target} at ${new Date(iat * 1_000).toISOString()}, and the audit trail does not have it`,
        fix: 'tabib residency journal',
      }),
    ),
    ...broken.map(({ name, why }) =>
      finding({
        id: 'residency/journal-broken',
        severity: 'critical',
        object: `record ${name}`,
        message: `it is not believed: ${why}`,
        fix: 'tabib residency journal --offline',
      }),
    ),
  ]
}

const readPolicy = (files: Files, file: string): Promise<string> =>
  files.read(file).catch((cause) => {
    throw new TabibError('NOT_FOUND', `cannot read ${file}: ${cause.code}`, { cause })
  })
