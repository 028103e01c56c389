import type { JWK } from 'jose'
import { TabibError } from '../../errors.ts'
import type { Fetch } from '../http/client.ts'

export { publicMembers } from './public-members.ts'

/** RFC 7518 section 3.1 and RFC 8037. */
export const SIGNING_ALGORITHMS = ['ES256', 'EdDSA', 'RS256'] as const
export type SigningAlgorithm = (typeof SIGNING_ALGORITHMS)[number]

/** A key pair as the world may see it. */
export interface StoredKey {
  /** What every store finds it by: its `kid`. */
  ref: string
  algorithm: SigningAlgorithm
  /** The public half, with `kid` (its RFC 7638 thumbprint), `alg` and `use: 'sig'`. */
  publicJwk: JWK & { kid: string }
}

/**
 * Where private keys live. They are made there, sign there and die there: no call returns one.
 *
 * @throws TabibError, from every call: KEY_STORE_UNREACHABLE, and NOT_AUTHORISED when the store refuses the secret.
 */
export interface KeyStore extends AsyncDisposable {
  /** Makes a key pair. A crash midway may leave one that nobody knows. @throws TabibError CONFIG_INVALID when the store lacks the algorithm. */
  generate(algorithm: SigningAlgorithm): Promise<StoredKey>
  /** @throws TabibError NOT_FOUND */
  find(ref: string): Promise<StoredKey>
  /** The signature as JOSE wants it: r‖s for ES256. @throws TabibError NOT_FOUND */
  sign(ref: string, bytes: Uint8Array): Promise<Uint8Array>
  /** Destroys a key pair for good; one that is gone already is no error. */
  destroy(ref: string): Promise<void>
  /**
   * Names the store: `file:<id>`, `pkcs11:<label>/<serial>`, `kms:<region>/<account>`. A KMS knows its account by a key
   * alone, and is `kms:<region>/?` when it does not hold this one.
   */
  identity(ref: string): Promise<string>
  /** Resolves when the store answers and takes the secret. */
  ping(): Promise<void>
}

export interface KeyStoreOptions {
  /** `file:<folder>`, `pkcs11:token=<label>?module-path=<library>` (RFC 7512) or `kms:https://<host>`. */
  url: string
  /** File that holds what opens the store: a passphrase, a PIN, or AWS credentials. */
  secretFile?: string | undefined
  /** The way to a KMS. */
  fetch: Fetch
}

/** Opens the store that the URL names; what it needs is loaded when it is used. @throws TabibError CONFIG_INVALID */
export async function openKeyStore(options: KeyStoreOptions): Promise<KeyStore> {
  const [scheme = ''] = options.url.split(':')
  switch (decodes(options.url) ? scheme : '') {
    case 'file':
      return (await import('./file.ts')).openFileStore(options)
    case 'pkcs11':
      return (await import('./pkcs11.ts')).openPkcs11Store(options)
    case 'kms':
      return (await import('./kms.ts')).openKmsStore(options)
    case '':
      throw new TabibError('CONFIG_INVALID', 'the URL of the key store has a % that begins no character')
    default:
      throw new TabibError('CONFIG_INVALID', `"${scheme}:" is no key store: file:, pkcs11: and kms: are`, {
        suggestions: ['export TABIB_KEY_STORE=file:<folder>'],
      })
  }
}

function decodes(url: string): boolean {
  try {
    decodeURIComponent(url)
    return true
  } catch {
    return false
  }
}
