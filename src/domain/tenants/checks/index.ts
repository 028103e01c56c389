import type { TenantCheck } from '../check.ts'
import { identityChecks } from './identity.ts'
import { messagingChecks } from './messaging.ts'
import { moneyChecks } from './money.ts'
import { operationsChecks } from './operations.ts'
import { paymentChecks } from './payment.ts'
import { privacyChecks } from './privacy.ts'
import { residencyChecks } from './residency.ts'

/** Every check that needs nothing but a tenant's document, in the order of printing. */
export const tenantChecks: readonly TenantCheck[] = [
  ...moneyChecks,
  ...paymentChecks,
  ...residencyChecks,
  ...privacyChecks,
  ...identityChecks,
  ...messagingChecks,
  ...operationsChecks,
]
