import type { Fetch } from '../../adapters/http/client.ts'
import { openStatementStore, type StatementStore } from '../../adapters/statement-store/client.ts'
import type { Config } from '../../config.ts'

/**
 * The statement store that is configured, to which a tenant's data goes as far as its residency lets it.
 * @throws TabibError CONFIG_INVALID, STATEMENT_STORE_UNREACHABLE
 */
export function openStore(
  { config, fetch }: { config: Config; fetch(tenantId: string): Fetch },
  tenantId: string,
): Promise<StatementStore> {
  const { store: url, secretFile } = config.statements
  return openStatementStore({ url, secretFile, fetch: fetch(tenantId) })
}
