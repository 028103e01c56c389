import type { Database } from '../../../adapters/postgres/client.ts'
import type { Residency } from '../../../config.ts'
import { TabibError } from '../../../errors.ts'
import { requireManifests } from '../../residency/gate.ts'
import {
  listManifests,
  readManifest,
  readTrustedKeys,
  type SignedManifest,
} from '../../residency/manifest.ts'
import type { TenantProbe } from '../check.ts'
import { allowedRegions } from '../tenant.ts'

const RUNBOOK = 'runbooks/billing/fm-21-cross-border-transfer.md'

/**
 * Holds every backup's signed manifest, backup and key, against where the tenant's data may be. Whether manifests are
 * fresh and which clusters hold what is asked by `tabib residency check`.
 */
export const backupProbe: TenantProbe<{ db: Database; residency: Residency | undefined }> = {
  id: 'tenant/backup-manifests',
  category: 'residency',
  severity: 'critical',
  title: 'backups and their keys are signed to lie in allowed regions',
  runbook: RUNBOOK,
  async run({ db, residency }, tenants) {
    if (residency?.manifests === undefined)
      return tenants.map(() => ({ notRun: 'no manifests are configured' }))
    const read = await readManifests(residency)
    const revoked = await db.query<{ kid: string }>('select kid from tabib.key_revocation')
    const revokedKeys = new Set(revoked.map(({ kid }) => kid))
    return tenants.map(({ tenant }) => {
      const allowed = allowedRegions(tenant)
      const wrong =
        typeof read === 'string' ? [read] : read.flatMap((one) => flawsOf(one, allowed, revokedKeys))
      if (wrong.length === 0) return undefined
      return {
        message: wrong.join('; '),
        path: ['residency', 'region'],
        evidence: { allowed },
        fix: 'tabib residency check',
      }
    })
  },
}

/** Every manifest, or words for one that is not believed; words alone where there is nothing to read. */
async function readManifests(residency: Residency): Promise<(SignedManifest | string)[] | string> {
  const inWords = (error: unknown): string => {
    if (error instanceof TabibError) return error.message
    throw error
  }
  try {
    const { folder, keyFile } = requireManifests(residency)
    const trusted = await readTrustedKeys(keyFile)
    const labels = await listManifests(folder)
    if (labels.length === 0) return `no backup manifest lies in ${folder}`
    return await Promise.all(labels.map((label) => readManifest(folder, label, trusted).catch(inWords)))
  } catch (error) {
    return inWords(error)
  }
}

function flawsOf(
  manifest: SignedManifest | string,
  allowed: readonly string[],
  revokedKeys: ReadonlySet<string>,
): string[] {
  if (typeof manifest === 'string') return [manifest]
  const { label, region, keyRegion, kid } = manifest
  return [
    ...(revokedKeys.has(kid) ? [`the manifest of backup ${label} was signed with a revoked key`] : []),
    ...(allowed.includes(region) ? [] : [`backup ${label} lies in ${region}`]),
    ...(allowed.includes(keyRegion) ? [] : [`the key of backup ${label} lies in ${keyRegion}`]),
  ]
}
