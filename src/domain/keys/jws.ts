import { base64url } from 'jose'
import type { KeyStore, StoredKey } from '../../adapters/keystore/client.ts'
import { assertHeldHere } from './held-here.ts'

/**
 * A compact JWS (RFC 7515) signed where the private key lives; jose itself signs only with keys that it holds.
 * `typ` keeps one kind of token from passing for another (RFC 8725 section 3.11); verify with jose and demand it.
 * @throws TabibError NOT_FOUND when the store has lost the key, KEY_ELSEWHERE when it lies in another one.
 */
export async function signJws(
  { keyStore }: { keyStore: KeyStore },
  { key, typ, payload }: { key: StoredKey & { store?: string | null }; typ: string; payload: object },
): Promise<string> {
  const header = { alg: key.algorithm, kid: key.publicJwk.kid, typ }
  const input = `${base64url.encode(JSON.stringify(header))}.${base64url.encode(JSON.stringify(payload))}`
  const signature = await keyStore.sign(key.ref, new TextEncoder().encode(input)).catch(async (error) => {
    if (error.code === 'NOT_FOUND') await assertHeldHere(keyStore, { ref: key.ref, store: key.store ?? null })
    throw error
  })
  return `${input}.${base64url.encode(signature)}`
}
