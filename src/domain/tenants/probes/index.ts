import type { Fetch } from '../../../adapters/http/client.ts'
import type { KeyStore } from '../../../adapters/keystore/client.ts'
import type { Database } from '../../../adapters/postgres/client.ts'
import type { Config, Residency } from '../../../config.ts'
import type { TenantProbe } from '../check.ts'
import { backupProbe } from './backups.ts'
import { isolationProbe } from './isolation.ts'
import { jwksProbe } from './jwks.ts'
import { kmsProbe } from './kms.ts'
import { webhookProbe } from './webhook.ts'

/** What probes reach the running systems with. */
export interface Reach {
  readonly db: Database
  /** Asks a tenant's servers, within the regions that it allows. */
  fetch(tenantId: string): Fetch
  readonly residency: Residency | undefined
  /** Opened when first asked for; undefined when none is configured. */
  keyStore: (() => Promise<KeyStore>) | undefined
}

/** The running systems of an App. */
export function reachOf(app: {
  readonly db: Database
  readonly config: Pick<Config, 'residency' | 'keys'>
  fetch(tenantId: string): Fetch
  keyStore(): Promise<KeyStore>
}): Reach {
  const { keys, residency } = app.config
  return {
    db: app.db,
    fetch: (tenantId) => app.fetch(tenantId),
    keyStore: keys.store === undefined ? undefined : () => app.keyStore(),
    residency,
  }
}

/** Every question that a tenant's document cannot answer, in the order of printing. */
export const tenantProbes: readonly TenantProbe<Reach>[] = [
  webhookProbe,
  backupProbe,
  kmsProbe,
  isolationProbe,
  jwksProbe,
]
