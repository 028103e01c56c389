import type { KeyStore } from '../../../adapters/keystore/client.ts'
import type { Database } from '../../../adapters/postgres/client.ts'
import type { TenantProbe } from '../check.ts'
import { isolationProbe } from './isolation.ts'
import { jwksProbe } from './jwks.ts'
import { kmsProbe } from './kms.ts'
import { webhookProbe } from './webhook.ts'

/** What probes reach the running systems with. */
export interface Reach {
  readonly db: Database
  /** How tenants' own servers are asked. */
  readonly fetch: typeof globalThis.fetch
  /** Opened when first asked for; undefined when none is configured. */
  keyStore: (() => Promise<KeyStore>) | undefined
}

/** Every question that a tenant's document cannot answer, in the order of printing. */
export const tenantProbes: readonly TenantProbe<Reach>[] = [webhookProbe, kmsProbe, isolationProbe, jwksProbe]
