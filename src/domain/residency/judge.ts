import type { PatroniCluster } from '../../adapters/patroni/client.ts'
import type { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import type { SignedManifest } from './manifest.ts'
import { type Tenancy, type Tenant, tenantSetHash } from './tenants.ts'

/** What was read, or why it could not be. */
export type Reading<T> = { read: true; value: T } | { read: false; error: TabibError }

/** Everything that a decision rests on. */
export interface GateState {
  /** The cluster that is to take over, as the configuration names it, and Patroni's own name for it. */
  target: string
  scope: string
  /** Every region there is. */
  regions: readonly string[]
  database: Reading<Tenancy>
  cluster: Reading<PatroniCluster>
  manifest: Reading<SignedManifest>
  /** The time here; a manifest is as old as this clock or the database's says, whichever is later. */
  nowMs: number
  maxManifestAgeMs: number
}

/** Something that holds tenants' data, and the region it says it is in. */
export interface Place {
  /** `cluster herat-dr, member n1`. */
  object: string
  region: unknown
  /** What to do when it says none. */
  whenUntagged: string
}

// Signers' clocks may be ahead by so much.
const SKEW_MS = 300_000

/**
 * Whether a cluster may take over: every reason why not; empty means yes. Pure. What could not be read is a reason, and
 * so is everything else that is not known to be right.
 */
export function judgeTarget(state: GateState): Finding[] {
  const { target, scope, regions, database, cluster, manifest } = state
  const tenants = database.read ? database.value.tenants : []
  return [
    ...(database.read ? judgeTenants(tenants, regions) : [unread('database', 'the tenants', database.error)]),
    ...(cluster.read
      ? judgeCluster(cluster.value, { target, scope, regions, tenants })
      : [unread('cluster', `cluster ${target}`, cluster.error)]),
    ...(manifest.read
      ? judgeManifest(manifest.value, { ...state, tenants })
      : [unread('manifest', 'the backup’s manifest', manifest.error)]),
    ...judgeIdentity(`cluster ${target}`, {
      database: database.read ? database.value.systemIdentifier : undefined,
      cluster: cluster.read ? cluster.value.systemIdentifier : undefined,
      backup: manifest.read ? manifest.value.systemIdentifier : undefined,
    }),
  ]
}

/** Untagged, unknown and disallowed members of a cluster, or a cluster that is another. */
export function judgeCluster(
  cluster: PatroniCluster,
  {
    target,
    scope,
    ...known
  }: { target: string; scope: string; regions: readonly string[]; tenants: readonly Tenant[] },
): Finding[] {
  const object = `cluster ${target}`
  if (cluster.scope !== scope) {
    return [
      finding({
        id: 'residency/wrong-cluster',
        object,
        message: `the Patroni that answers for it is "${cluster.scope}", not "${scope}"`,
        evidence: { expected: scope, seen: cluster.scope },
        fix: `set residency.clusters.${target}.patroni in tabib.yaml`,
      }),
    ]
  }
  if (cluster.members.length === 0) {
    return [
      finding({
        id: 'residency/no-member',
        object,
        message: 'it has no member',
        fix: `patronictl list ${scope}`,
      }),
    ]
  }
  return cluster.members.flatMap(({ name, role, tags }) =>
    judgePlace(
      {
        object: `${object}, member ${name} (${role})`,
        region: tags.region,
        whenUntagged: `patronictl reload ${scope} ${name}    # with tags: { region: <region> } in its configuration`,
      },
      known,
    ),
  )
}

/** A backup and its key in regions that will do, its age, and whether it was signed for these very tenants. */
export function judgeManifest(
  manifest: SignedManifest,
  {
    regions,
    tenants,
    database,
    nowMs,
    maxManifestAgeMs,
  }: Pick<GateState, 'regions' | 'database' | 'nowMs' | 'maxManifestAgeMs'> & { tenants: readonly Tenant[] },
): Finding[] {
  const { label, region, keyRegion, iat } = manifest
  const object = `backup ${label}`
  const again = `tabib residency manifest ${label} --region ${region} --key-region ${keyRegion}`
  const ageMs = (database.read ? database.value.now.getTime() : nowMs) - iat * 1_000
  // The clock of a standby that is asked may be behind, and would make any manifest young.
  const oldestMs = Math.max(ageMs, nowMs - iat * 1_000)
  const known = { regions, tenants }
  const findings = [
    ...judgePlace({ object, region, whenUntagged: again }, known),
    ...judgePlace({ object: `key of backup ${label}`, region: keyRegion, whenUntagged: again }, known),
  ]
  // Written so that an age that is no number is too old.
  if (!(oldestMs <= maxManifestAgeMs && ageMs >= -SKEW_MS)) {
    findings.push(
      finding({
        id: 'residency/stale-manifest',
        object,
        message: `its manifest is ${hours(ageMs < -SKEW_MS ? ageMs : oldestMs)} old; ${hours(maxManifestAgeMs)} at most are believed`,
        evidence: { signedAt: new Date(iat * 1_000).toISOString() },
        fix: again,
      }),
    )
  }
  if (database.read && database.value.revokedKeys.includes(manifest.kid)) {
    findings.push(
      finding({
        id: 'residency/revoked-key',
        object,
        message: 'its manifest was signed with a key that was revoked since',
        evidence: { kid: manifest.kid },
        fix: again,
      }),
    )
  }
  if (database.read && manifest.tenantSetHash !== tenantSetHash(tenants)) {
    findings.push(
      finding({
        id: 'residency/tenants-changed',
        object,
        message: 'its manifest was signed for another set of tenants and allowlists than there is now',
        evidence: { tenants: tenants.length },
        fix: again,
      }),
    )
  }
  return findings
}

/** Whether a place will do for every tenant: it says where it is, that region is known, and each tenant allows it. */
export function judgePlace(
  { object, region, whenUntagged }: Place,
  { regions, tenants }: { regions: readonly string[]; tenants: readonly Tenant[] },
): Finding[] {
  if (typeof region !== 'string' || region === '') {
    return [
      finding({
        id: 'residency/untagged',
        object,
        message: 'it does not say which region it is in',
        fix: whenUntagged,
      }),
    ]
  }
  if (!regions.includes(region)) {
    return [
      finding({
        id: 'residency/unknown-region',
        object,
        message: `it is in "${region}", and there is no such region`,
        evidence: { region, known: [...regions] },
        fix: 'set residency.regions in tabib.yaml, or mend the tag',
      }),
    ]
  }
  const against = tenants.filter(({ allowed }) => !allowed.includes(region))
  const [first] = against
  if (first === undefined) return []
  const more = against.length > NAMED ? ` and ${against.length - NAMED} more` : ''
  const named = against.slice(0, NAMED).map(({ slug }) => slug)
  return [
    finding({
      id: 'residency/disallowed',
      severity: 'critical',
      object,
      message: `it is in ${region}, which ${named.join(', ')}${more} ${against.length === 1 ? 'does' : 'do'} not allow`,
      evidence: { region, tenants: against.length, named },
      fix: `tabib residency allow ${first.slug} ${region} --confirm ${first.slug} --reason "<their consent>"`,
    }),
  ]
}

/** Tenants whose allowlist names regions that do not exist; and none at all, which only a wrong database has. */
export function judgeTenants(tenants: readonly Tenant[], regions: readonly string[]): Finding[] {
  if (tenants.length === 0) {
    return [
      finding({
        id: 'residency/no-tenants',
        object: 'the tenants',
        message: 'there is none, so nothing shows whose data this is',
        fix: 'tabib doctor',
      }),
    ]
  }
  return tenants.flatMap(({ slug, allowed }) => {
    const unknown = allowed.filter((region) => !regions.includes(region))
    if (unknown.length === 0) return []
    return finding({
      id: 'residency/unknown-region',
      object: `tenant ${slug}`,
      message: `it allows ${unknown.map((region) => `"${region}"`).join(', ')}, and there is no such region`,
      evidence: { regions: unknown },
      fix: 'set residency.regions in tabib.yaml',
    })
  })
}

/**
 * Whether all that was read is of one Postgres cluster, by its system identifier: a standby or a backup of another would
 * hold other tenants than those that are judged.
 *
 * @param seen By what it was read from; what was not read is left out.
 */
export function judgeIdentity(object: string, seen: Record<string, string | undefined>): Finding[] {
  const known = Object.entries(seen).filter(([, identifier]) => identifier !== undefined)
  if (new Set(known.map(([, identifier]) => identifier)).size <= 1) return []
  return [
    finding({
      id: 'residency/other-database',
      object,
      message: `${known.map(([what]) => what).join(' and ')} are not of one Postgres cluster: their system identifiers differ`,
      evidence: seen,
      fix: 'point --database-url at the cluster whose tenants are meant',
    }),
  ]
}

/** Something that could not be read, and so proves nothing. */
export function unread(what: string, object: string, { message, code, suggestions }: TabibError): Finding {
  return finding({
    id: `residency/${what}-unread`,
    object,
    message: `it cannot be judged: ${message}`,
    evidence: { code },
    fix: suggestions[0] ?? 'tabib doctor',
  })
}

const NAMED = 5
const hours = (ms: number): string => `${(ms / 3_600_000).toFixed(1)} h`

/** One reason, as every check reports it. */
export function finding({
  id,
  object,
  message,
  fix,
  severity = 'error',
  evidence = {},
  runbook = 'runbooks/billing/fm-22-residency-drift-in-recovery.md',
}: Pick<Finding, 'id' | 'object' | 'message' | 'fix'> & Partial<Finding>): Finding {
  return {
    id,
    check: 'residency check',
    severity,
    object,
    message,
    evidence,
    fix,
    runbook,
    cacheKey: `${id}:${object}`,
    waived: false,
  }
}
