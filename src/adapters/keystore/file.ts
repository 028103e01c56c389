import {
  createHash,
  createPrivateKey,
  generateKeyPair,
  type KeyObject,
  randomBytes,
  scrypt as scryptWithCallback,
  sign,
} from 'node:crypto'
import { existsSync } from 'node:fs'
import { link, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { CompactEncrypt, calculateJwkThumbprint, compactDecrypt, exportJWK, type JWK } from 'jose'
import { TabibError } from '../../errors.ts'
import type { KeyStore, KeyStoreOptions, SigningAlgorithm, StoredKey } from './client.ts'
import { publicMembers } from './public-members.ts'
import { readSecretFile, unknownKey, unreadable } from './secret-file.ts'

const scrypt = promisify(
  scryptWithCallback as (
    secret: string,
    salt: Buffer,
    length: number,
    options: object,
    done: (error: Error | null, key: Buffer) => void,
  ) => void,
)
const makePair = promisify(
  generateKeyPair as (
    type: string,
    options: object,
    done: (error: Error | null, publicKey: KeyObject, privateKey: KeyObject) => void,
  ) => void,
) as unknown as (type: string, options: object) => Promise<{ publicKey: KeyObject; privateKey: KeyObject }>

const PAIRS: Record<SigningAlgorithm, [type: string, options: object]> = {
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
  RS256: ['rsa', { modulusLength: 2048 }],
}
/** OWASP's password storage cheat sheet: N = 2^17, r = 8, p = 1. */
const SCRYPT = { N: 2 ** 17, r: 8, p: 1, maxmem: 256 * 1024 * 1024 }
const SHORTEST_PASSPHRASE = 16

/**
 * Keys in a folder, each a JWE (RFC 7516, `dir` with A256GCM) under a key that scrypt derives from the passphrase in
 * `secretFile`. For one machine; services that run on several want an HSM or a KMS.
 *
 * @throws TabibError CONFIG_INVALID without a passphrase.
 */
export async function openFileStore({ url, secretFile }: KeyStoreOptions): Promise<KeyStore> {
  const folder = resolve(decodeURIComponent(url.slice('file:'.length).replace(/^\/\/(?=\/)/, '')))
  const { wrapping, salt } = await deriveKey(folder, await readPassphrase(secretFile))
  const opened = new Map<string, { key: StoredKey; privateKey: KeyObject }>()

  const read = async (ref: string) => {
    const known = opened.get(ref)
    if (known) return known
    if (!/^[\w-]{43}$/.test(ref)) throw unknownKey(ref)
    const sealed = await readFile(join(folder, `${ref}.jwe`), 'utf8').catch((cause) => {
      if (cause.code === 'ENOENT') throw unknownKey(ref)
      throw unreadable(folder, cause)
    })
    const { plaintext } = await compactDecrypt(sealed.trim(), wrapping).catch((cause) => {
      throw new TabibError('NOT_AUTHORISED', `the passphrase does not open key ${ref} in ${folder}`, {
        cause,
      })
    })
    const jwk = JSON.parse(Buffer.from(plaintext).toString())
    const privateKey = createPrivateKey({ key: jwk, format: 'jwk' })
    const found = { key: describe(ref, jwk), privateKey }
    opened.set(ref, found)
    return found
  }

  /** Opens some key that is there, if any is. */
  const provePassphrase = async () => {
    const names = await readdir(folder).catch((cause) => {
      throw unreadable(folder, cause)
    })
    const sealed = names.find((name) => name.endsWith('.jwe'))
    if (sealed === undefined) return
    await read(sealed.slice(0, -'.jwe'.length)).catch((error) => {
      // Destroyed meanwhile.
      if (error.code !== 'NOT_FOUND') throw error
    })
  }

  return {
    async generate(algorithm) {
      // Of two passphrases in one folder, each would open half of the keys.
      await provePassphrase()
      const { privateKey } = await makePair(...PAIRS[algorithm])
      const jwk = { ...(await exportJWK(privateKey)), alg: algorithm }
      const ref = await calculateJwkThumbprint(jwk)
      const sealed = await new CompactEncrypt(Buffer.from(JSON.stringify(jwk)))
        .setProtectedHeader({ alg: 'dir', enc: 'A256GCM' })
        .encrypt(wrapping)
      await writeWhole(join(folder, `${ref}.jwe`), sealed)
      const key = describe(ref, jwk)
      opened.set(ref, { key, privateKey })
      return key
    },
    find: async (ref) => (await read(ref)).key,
    async sign(ref, bytes) {
      const { key, privateKey } = await read(ref)
      return sign(key.algorithm === 'EdDSA' ? null : 'sha256', bytes, {
        key: privateKey,
        dsaEncoding: 'ieee-p1363',
      })
    },
    async destroy(ref) {
      opened.delete(ref)
      if (/^[\w-]{43}$/.test(ref)) await rm(join(folder, `${ref}.jwe`), { force: true })
    },
    // A copy of the folder is the same store: it holds the same keys.
    identity: async () => `file:${createHash('sha256').update(salt).digest('hex').slice(0, 16)}`,
    ping: provePassphrase,
    async [Symbol.asyncDispose]() {
      opened.clear()
    },
  }
}

function describe(ref: string, jwk: JWK): StoredKey {
  const algorithm = jwk.alg as SigningAlgorithm
  return { ref, algorithm, publicJwk: { ...publicMembers(jwk), kid: ref, alg: algorithm, use: 'sig' } }
}

async function readPassphrase(secretFile: string | undefined): Promise<string> {
  const passphrase = await readSecretFile(secretFile, {
    holds: 'a passphrase',
    make: '(umask 077; openssl rand -base64 32 > keystore.secret)',
  })
  if (passphrase.length < SHORTEST_PASSPHRASE) {
    throw new TabibError(
      'CONFIG_INVALID',
      `the passphrase in ${secretFile} has ${passphrase.length} characters; at least ${SHORTEST_PASSPHRASE} are wanted`,
    )
  }
  return passphrase
}

/** The salt is made once for a folder, by whoever comes first. */
async function deriveKey(
  folder: string,
  passphrase: string,
): Promise<{ wrapping: Uint8Array; salt: Buffer }> {
  const path = join(folder, 'salt')
  try {
    // A folder that was there keeps its mode: it may be somebody's, and what is put there is sealed and mode 600.
    await mkdir(folder, { recursive: true, mode: 0o700 })
    // Whoever links first has made the salt; a folder never shows half of one.
    const draft = `${path}.${process.pid}.draft`
    if (!existsSync(path)) {
      await writeSynced(draft, randomBytes(16).toString('base64url'))
      await link(draft, path).catch((error) => {
        if (error.code !== 'EEXIST') throw error
      })
      await rm(draft, { force: true })
    }
    const salt = Buffer.from(await readFile(path, 'utf8'), 'base64url')
    return { wrapping: await scrypt(passphrase, salt, 32, SCRYPT), salt }
  } catch (cause) {
    throw unreadable(folder, cause)
  }
}

/** A crash leaves the old file or the new one, never half of one. */
async function writeWhole(path: string, text: string): Promise<void> {
  const draft = `${path}.${process.pid}.draft`
  await writeSynced(draft, text)
  await rename(draft, path)
}

async function writeSynced(path: string, text: string): Promise<void> {
  const file = await open(path, 'w', 0o600)
  await file.writeFile(text)
  await file.sync()
  await file.close()
}
