import { base64url } from 'jose'
import type { KeyStore, StoredKey } from '../../adapters/keystore/client.ts'

/**
 * A compact JWS (RFC 7515) signed where the private key lives; jose itself signs only with keys that it holds.
 * `typ` keeps one kind of token from passing for another (RFC 8725 section 3.11); verify with jose and demand it.
 */
export async function signJws(
  { keyStore }: { keyStore: KeyStore },
  { key, typ, payload }: { key: StoredKey; typ: string; payload: object },
): Promise<string> {
  const header = { alg: key.algorithm, kid: key.publicJwk.kid, typ }
  const input = `${base64url.encode(JSON.stringify(header))}.${base64url.encode(JSON.stringify(payload))}`
  const signature = await keyStore.sign(key.ref, new TextEncoder().encode(input))
  return `${input}.${base64url.encode(signature)}`
}
