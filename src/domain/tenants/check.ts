import type { Finding } from '../../finding.ts'
import type { Fix } from './fix.ts'
import type { Tenant } from './tenant.ts'

export const CATEGORIES = [
  'money',
  'payment',
  'residency',
  'privacy',
  'identity',
  'messaging',
  'operations',
] as const
export type Category = (typeof CATEGORIES)[number]

/** What stands against a tenant. */
export interface Problem {
  /** What was seen. */
  message: string
  /** Where in the document; what is missing there is looked for further up. */
  path: (string | number)[]
  /** What of the tenant it is about, where a check may speak of several: an item, an account. */
  about?: string
  evidence?: Record<string, unknown>
  /** For the document, at `path` unless it says where else, once what it leaves open in <brackets> is filled in. */
  fix: Fix | null
}

/** One question about a tenant's configuration, answered from the document alone. */
export interface TenantCheck {
  id: `tenant/${string}`
  category: Category
  severity: Finding['severity']
  /** What holds when it passes: "the default currency is set". */
  title: string
  /** The runbook's path from the package root. */
  runbook?: string
  /** An empty list is a pass. */
  run(tenant: Tenant, now: Date): Problem[]
}

/** Undefined is a pass. */
export type Outcome = Problem | { notRun: string } | undefined

/**
 * One question that only the running systems can answer, about many tenants at once, with one outcome each; `Reach` is
 * what it needs of them.
 */
export interface TenantProbe<Reach> extends Omit<TenantCheck, 'run'> {
  run(reach: Reach, tenants: readonly LiveTenant[]): Promise<Outcome[]>
}

export interface LiveTenant {
  id: string
  tenant: Tenant
}
