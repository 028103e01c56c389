import { openFiles } from '../../../adapters/files/client.ts'
import type { Database } from '../../../adapters/postgres/client.ts'
import type { Residency } from '../../../config.ts'
import { beginBackups, reading } from '../../residency/gate.ts'
import { readManifest, type SignedManifest } from '../../residency/manifest.ts'
import type { TenantProbe } from '../check.ts'
import { allowedRegions } from '../tenant.ts'

const LIMIT_MS = 3_000
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
  using files = openFiles()
  const begun = await reading('the folder of manifests', () => beginBackups(files, residency), LIMIT_MS)
  if (!begun.read) return begun.error.message
  const { folder, trusted, labels } = begun.value
  const read = labels.map((label) =>
    reading(`backup ${label}`, () => readManifest(files, folder, label, trusted), LIMIT_MS),
  )
  return (await Promise.all(read)).map((one) => (one.read ? one.value : one.error.message))
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
