import type { TenantCheck } from '../check.ts'
import { allowedRegions } from '../tenant.ts'

/** Where the tenant's data is, and who holds its keys. */
export const residencyChecks: TenantCheck[] = [
  {
    id: 'tenant/residency-region',
    category: 'residency',
    severity: 'critical',
    title: 'the region is set',
    run: ({ residency: { region } }) =>
      region
        ? []
        : [
            {
              message: 'it is not said where its data lives',
              path: ['residency', 'region'],
              fix: { set: 'af-kabul' },
            },
          ],
  },
  {
    id: 'tenant/backups-in-region',
    category: 'residency',
    severity: 'critical',
    title: 'backups exist and lie in allowed regions',
    run: ({ residency }) => {
      const { backups } = residency
      const allowed = allowedRegions({ residency })
      if (backups.length === 0) {
        const fix = { add: { label: '<label>', region: allowed[0] ?? 'af-kabul' } }
        return [{ message: 'there is no backup', path: ['residency', 'backups'], fix }]
      }
      return backups.flatMap(({ label, region }, i) =>
        allowed.includes(region)
          ? []
          : [
              {
                message: `backup ${label} lies in ${region}, which is not allowed`,
                path: ['residency', 'backups', i, 'region'],
                about: label,
                evidence: { region, allowed },
                fix: { set: allowed[0] ?? 'af-kabul', note: 'after moving the backup' },
              },
            ],
      )
    },
  },
  {
    id: 'tenant/kms-key',
    category: 'residency',
    severity: 'critical',
    title: 'the KMS key is set, in an allowed region',
    run: ({ keys: { kms }, residency }) => {
      const allowed = allowedRegions({ residency })
      if (!kms) {
        const fix = { set: { ref: '<key>', region: allowed[0] ?? 'af-kabul' } }
        return [{ message: 'there is no KMS key', path: ['keys', 'kms'], fix }]
      }
      if (allowed.includes(kms.region)) return []
      return [
        {
          message: `the KMS key lies in ${kms.region}, which is not allowed`,
          path: ['keys', 'kms', 'region'],
          evidence: { region: kms.region, allowed },
          fix: {
            set: { ref: '<key>', region: allowed[0] ?? 'af-kabul' },
            at: ['keys', 'kms'],
            note: 'a new key there',
          },
        },
      ]
    },
  },
]
