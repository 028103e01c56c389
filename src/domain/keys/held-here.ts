import type { KeyStore } from '../../adapters/keystore/client.ts'
import { TabibError } from '../../errors.ts'

/**
 * Passes when the key store here is the one in which a key was made.
 * @throws TabibError KEY_ELSEWHERE naming both.
 */
export async function assertHeldHere(
  keyStore: KeyStore,
  { ref, store }: { ref: string; store: string | null },
): Promise<void> {
  if (store === null) return
  const here = await keyStore.identity(ref)
  if (here === store) return
  throw new TabibError(
    'KEY_ELSEWHERE',
    `key ${ref} lies in the key store ${store}, and the one configured here is ${here}`,
    {
      suggestions: [`the same command where TABIB_KEY_STORE names ${store}`, 'tabib keys list --ended'],
      context: { store, here },
    },
  )
}
