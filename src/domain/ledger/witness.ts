import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Account } from './account.ts'
import { changedStretches } from './digest.ts'
import { examineAccount, faultOf, type Names } from './examine.ts'
import type { ToldFault } from './faults.ts'
import { readLastSeal, readSealedAccount, type SealedAccount, sealedStretches } from './seal.ts'

/** What the last seal knows of one account, and what does not hold of the account by itself and against it. */
export interface Witness {
  sealed: SealedAccount | undefined
  /** As the connection or transaction sees it; nothing when the account verifies. */
  faults(db: Queryable): Promise<ToldFault[]>
}

/**
 * Reads the last seal for one account.
 * @param folder where the seals lie; without it the account is verified by itself alone.
 * @throws TabibError LEDGER_DRIFT when there are seals and the last one is not believed; as `readLastSeal` does.
 */
export async function callWitness(
  { db, keyStore, erasureSecret }: { db: Queryable; keyStore(): Promise<KeyStore>; erasureSecret?: Names },
  account: Pick<Account, 'tenantId' | 'id'>,
  folder: string | undefined,
): Promise<Witness> {
  const { tenantId, id: accountId } = account
  const { seal, problems } =
    folder === undefined
      ? { seal: undefined, problems: [] }
      : await readLastSeal({ db, keyStore: await keyStore() }, folder)
  if (seal === undefined && problems.length > 0) {
    throw new TabibError('LEDGER_DRIFT', `account ${accountId} cannot be verified: ${problems.join('; ')}`, {
      suggestions: ['tabib ledger verify --full --dry-run'],
    })
  }
  const sealed = seal && (await readSealedAccount(seal, account))
  return {
    sealed,
    async faults(on) {
      // Some of its entries may be sealed in the order of posting alone.
      const loose =
        seal && sealed && sealed.blocks.at(-1)?.to !== sealed.seq ? await sealedStretches(seal) : []
      const changed = await changedStretches(on, loose)
      const found = await examineAccount(on, { tenantId, accountId, sealed }, seal, erasureSecret, changed)
      return found.map(faultOf)
    },
  }
}
