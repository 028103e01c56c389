import type { TenantCheck } from '../check.ts'
import { RETAINED } from '../tenant.ts'

/** What patients are owed: erasure and retention. */
export const privacyChecks: TenantCheck[] = [
  {
    id: 'tenant/subject-keys',
    category: 'privacy',
    severity: 'critical',
    title: "patients have keys of their own under the tenant's KMS key",
    run: ({ keys: { kms, subjects } }) => {
      if (subjects && kms && subjects.wrappedBy === kms.ref) return []
      return [
        {
          message: subjects
            ? "subject keys are not wrapped by the tenant's KMS key, so destroying it would not destroy them"
            : 'patients have no keys of their own, so nothing of theirs can be shredded',
          path: ['keys', 'subjects', 'wrappedBy'],
          fix: { set: kms?.ref ?? '<keys.kms.ref>' },
        },
      ]
    },
  },
  {
    id: 'tenant/erasure-contact',
    category: 'privacy',
    severity: 'error',
    title: 'there is a contact for erasure requests',
    run: ({ privacy }) =>
      privacy.erasureContact
        ? []
        : [
            {
              message: 'nobody is named whom a patient can ask to be erased',
              path: ['privacy', 'erasureContact'],
              fix: { set: '<e-mail address>' },
            },
          ],
  },
  {
    id: 'tenant/retention-policy',
    category: 'privacy',
    severity: 'error',
    title: 'the retention policy speaks of every kind of data',
    run: ({ privacy: { retentionDays } }) => {
      const missing = RETAINED.filter((kind) => retentionDays[kind] === undefined)
      if (missing.length === 0) return []
      return [
        {
          message: `no time is set after which ${missing.join(', ')} data ends`,
          path: ['privacy', 'retentionDays'],
          evidence: { missing },
          fix: { set: { ...Object.fromEntries(missing.map((kind) => [kind, 3_650])), ...retentionDays } },
        },
      ]
    },
  },
]
