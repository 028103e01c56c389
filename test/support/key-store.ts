import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import { type KeyStore, openKeyStore } from '../../src/adapters/keystore/client.ts'

/** A key store of a test file's own, in encrypted files; its parts exist from `beforeAll` on. */
export function useKeyStore(): { readonly store: KeyStore; readonly env: Record<string, string> } {
  let folder = ''
  let store: KeyStore | undefined
  let env: Record<string, string> = {}
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tabib-keys-'))
    const secretFile = join(folder, 'secret')
    await writeFile(secretFile, randomBytes(24).toString('base64'), { mode: 0o600 })
    env = { TABIB_KEY_STORE: `file:${folder}/keys`, TABIB_KEY_STORE_SECRET_FILE: secretFile }
    store = await openKeyStore({ url: env.TABIB_KEY_STORE!, secretFile, fetch })
  })
  afterAll(async () => {
    await store?.[Symbol.asyncDispose]()
    await rm(folder, { recursive: true })
  })
  return {
    get store() {
      if (!store) throw new Error('the key store exists only while tests run')
      return store
    },
    get env() {
      return env
    },
  }
}
