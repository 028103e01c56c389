import { createHash } from 'node:crypto'
import { base64url, calculateJwkThumbprint, type JWK } from 'jose'
import type { Handle, PKCS11, Template } from 'pkcs11js'
import { TabibError } from '../../errors.ts'
import type { KeyStore, KeyStoreOptions, SigningAlgorithm, StoredKey } from './client.ts'
import { readSecretFile, unknownKey } from './secret-file.ts'

type Library = typeof import('pkcs11js')

// PKCS#11 3.0, section 2.3; the library's constants end at 2.40.
const CKK_EC_EDWARDS = 0x40
const CKM_EC_EDWARDS_KEY_PAIR_GEN = 0x1055
const CKM_EDDSA = 0x1057
// DER of the object identifiers of P-256 and Ed25519 (RFC 8410): SoftHSM knows no curve by its name.
const P256 = Buffer.from('06082a8648ce3d030107', 'hex')
const ED25519 = Buffer.from('06032b6570', 'hex')
const LONGEST_SIGNATURE = 512

/**
 * A token behind a PKCS#11 module, in this process: most calls hold the process up until the module answers, so
 * `pkcs11-process.ts` alone opens one.
 *
 * @throws TabibError CONFIG_INVALID
 */
export async function openModule({ url, secretFile }: KeyStoreOptions): Promise<KeyStore> {
  const wanted = parsePkcs11Url(url)
  const p11 = await loadLibrary()
  const pin = await readSecretFile(secretFile, {
    holds: 'a PIN',
    make: '(umask 077; cat > keystore.secret)    # the PIN, Enter, Ctrl-D',
  })
  let module: PKCS11 | undefined
  // A token stays logged in while a session of this process is open.
  let login: Promise<{ slot: Handle; session: Handle }> | undefined

  const logIn = async () => {
    module ??= loadModule(p11, wanted.modulePath)
    const slot = findToken(module, wanted)
    const session = openSession(p11, module, slot)
    try {
      module.C_Login(session, p11.CKU_USER, pin)
    } catch (error) {
      if (codeOf(error) !== p11.CKR_USER_ALREADY_LOGGED_IN) {
        module.C_CloseSession(session)
        throw error
      }
    }
    return { slot, session }
  }
  const logOut = async () => {
    const held = await login?.catch(() => undefined)
    login = undefined
    try {
      if (held) module?.C_CloseSession(held.session)
    } catch {
      // It went with the token.
    }
  }
  // Every call has its own session: one session does one thing at a time.
  const inSession = async <T>(work: (token: Token) => Promise<T>): Promise<T> => {
    try {
      login ??= logIn()
      const { slot } = await login
      const session = openSession(p11, module!, slot)
      try {
        return await work({ p11, module: module!, slot, session })
      } finally {
        module!.C_CloseSession(session)
      }
    } catch (error) {
      const translated = translate(p11, error, wanted.name)
      // A token that was pulled out wants another login when it is back.
      if (translated instanceof TabibError && translated.code === 'KEY_STORE_UNREACHABLE') await logOut()
      throw translated
    }
  }

  return {
    generate: (algorithm) =>
      inSession(async (token) => {
        const pair = await generatePair(token, algorithm, wanted.name)
        const key = await describe(token, pair.publicKey)
        const names: Template = [
          { type: p11.CKA_ID, value: Buffer.from(key.ref) },
          { type: p11.CKA_LABEL, value: `tabib ${key.ref}` },
        ]
        for (const handle of [pair.publicKey, pair.privateKey]) {
          token.module.C_SetAttributeValue(token.session, handle, names)
        }
        return key
      }),
    find: (ref) => inSession((token) => describe(token, requireObject(token, p11.CKO_PUBLIC_KEY, ref))),
    sign: (ref, bytes) =>
      inSession(async (token) => {
        const key = requireObject(token, p11.CKO_PRIVATE_KEY, ref)
        const { mechanism, hash } = signing(p11, algorithmOf(token, key))
        const input = hash ? createHash('sha256').update(bytes).digest() : Buffer.from(bytes)
        token.module.C_SignInit(token.session, { mechanism }, key)
        return await token.module.C_SignAsync(token.session, input, Buffer.alloc(LONGEST_SIGNATURE))
      }),
    destroy: (ref) =>
      inSession(async (token) => {
        for (const kind of [p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY]) {
          const handle = findObject(token, kind, ref)
          if (handle) token.module.C_DestroyObject(token.session, handle)
        }
      }),
    identity: () =>
      inSession(async (token) => {
        const { label, serialNumber } = token.module.C_GetTokenInfo(token.slot)
        return `pkcs11:${label.trim()}/${serialNumber.trim()}`
      }),
    ping: () => inSession(async () => {}),
    [Symbol.asyncDispose]: logOut,
  }
}

/** A session in a token that is logged in. */
interface Token {
  p11: Library
  module: PKCS11
  slot: Handle
  session: Handle
}

interface WantedToken {
  /** As messages name it. */
  name: string
  modulePath: string
  /** Attributes of RFC 7512 that the token must have, by the names of pkcs11js. */
  attributes: [name: 'label' | 'serialNumber' | 'manufacturerID' | 'model', value: string][]
}

const PATH_ATTRIBUTES = {
  token: 'label',
  serial: 'serialNumber',
  manufacturer: 'manufacturerID',
  model: 'model',
} as const

function parsePkcs11Url(url: string): WantedToken {
  const [path = '', query = ''] = url.slice('pkcs11:'.length).split('?')
  const pairs = (text: string, separator: string): [string, string][] =>
    text
      .split(separator)
      .filter(Boolean)
      .map((pair) => pair.split(/=(.*)/s))
      .map(([name = '', value = '']) => [name, decodeURIComponent(value)])
  const attributes = pairs(path, ';')
  const { 'module-path': modulePath, ...others } = Object.fromEntries(pairs(query, '&'))
  const unknown = [
    ...attributes.map(([name]) => name).filter((name) => !(name in PATH_ATTRIBUTES)),
    ...Object.keys(others),
  ]
  // The value of an attribute that is not understood may be a PIN, so it is not repeated.
  if (unknown.length > 0) throw badUrl(`has ${unknown.join(', ')}, which it may not`)
  if (attributes.length === 0) throw badUrl('names no token')
  if (modulePath === undefined) throw badUrl('names no module')
  return {
    name: attributes.map(([, value]) => value).join(' '),
    modulePath,
    attributes: attributes.map(([name, value]) => [
      PATH_ATTRIBUTES[name as keyof typeof PATH_ATTRIBUTES],
      value,
    ]),
  }
}

const badUrl = (problem: string) =>
  new TabibError('CONFIG_INVALID', `the PKCS#11 URL of the key store ${problem}`, {
    suggestions: [
      "export TABIB_KEY_STORE='pkcs11:token=<label>?module-path=/usr/lib/softhsm/libsofthsm2.so'",
      'export TABIB_KEY_STORE_SECRET_FILE=<file with the PIN>',
    ],
  })

async function loadLibrary(): Promise<Library> {
  try {
    return ((await import('pkcs11js')) as unknown as { default: Library }).default
  } catch (cause) {
    throw new TabibError(
      'CONFIG_INVALID',
      'a PKCS#11 key store needs the package pkcs11js, and it is not installed or was not compiled here',
      { cause, suggestions: ['sudo apt-get install -y g++ make python3 && npm install pkcs11js@2'] },
    )
  }
}

function loadModule(p11: Library, path: string): PKCS11 {
  const module = new p11.PKCS11()
  try {
    module.load(path)
    module.C_Initialize({ flags: p11.CKF_OS_LOCKING_OK })
  } catch (cause) {
    if (codeOf(cause) !== p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
      throw new TabibError('KEY_STORE_UNREACHABLE', `the PKCS#11 module ${path} cannot be loaded`, { cause })
    }
  }
  return module
}

function findToken(module: PKCS11, { name, attributes, modulePath }: WantedToken): Handle {
  const slots = module.C_GetSlotList(true).map((slot) => ({ slot, info: module.C_GetTokenInfo(slot) }))
  const found = slots.filter(({ info }) =>
    attributes.every(([attribute, value]) => info[attribute].trimEnd() === value),
  )
  if (found.length === 1) return found[0]!.slot
  const labels = slots.map(({ info }) => info.label.trim()).filter(Boolean)
  throw new TabibError(
    'KEY_STORE_UNREACHABLE',
    `${found.length === 0 ? 'no token' : `${found.length} tokens`} "${name}" behind ${modulePath}; there are: ${labels.join(', ') || 'none'}`,
  )
}

const openSession = (p11: Library, module: PKCS11, slot: Handle): Handle =>
  module.C_OpenSession(slot, p11.CKF_SERIAL_SESSION | p11.CKF_RW_SESSION)

async function generatePair({ p11, module, session }: Token, algorithm: SigningAlgorithm, name: string) {
  const kinds: Record<SigningAlgorithm, { mechanism: number; template: Template }> = {
    ES256: { mechanism: p11.CKM_EC_KEY_PAIR_GEN, template: [{ type: p11.CKA_EC_PARAMS, value: P256 }] },
    EdDSA: {
      mechanism: CKM_EC_EDWARDS_KEY_PAIR_GEN,
      template: [{ type: p11.CKA_EC_PARAMS, value: ED25519 }],
    },
    RS256: {
      mechanism: p11.CKM_RSA_PKCS_KEY_PAIR_GEN,
      template: [
        { type: p11.CKA_MODULUS_BITS, value: 2048 },
        { type: p11.CKA_PUBLIC_EXPONENT, value: Buffer.from([1, 0, 1]) },
      ],
    },
  }
  const { mechanism, template } = kinds[algorithm]
  const onToken = { type: p11.CKA_TOKEN, value: true }
  try {
    return await module.C_GenerateKeyPairAsync(
      session,
      { mechanism },
      [onToken, { type: p11.CKA_VERIFY, value: true }, ...template],
      [
        onToken,
        { type: p11.CKA_PRIVATE, value: true },
        { type: p11.CKA_SENSITIVE, value: true },
        { type: p11.CKA_EXTRACTABLE, value: false },
        { type: p11.CKA_SIGN, value: true },
      ],
    )
  } catch (cause) {
    if (codeOf(cause) !== p11.CKR_MECHANISM_INVALID) throw cause
    throw new TabibError('CONFIG_INVALID', `the token "${name}" makes no keys for ${algorithm}`, { cause })
  }
}

/** Reads a public key's object; its name is computed, so one without a name can be described too. */
async function describe(token: Token, handle: Handle): Promise<StoredKey> {
  const algorithm = algorithmOf(token, handle)
  const jwk = publicJwk(token, handle, algorithm)
  const kid = await calculateJwkThumbprint(jwk)
  return { ref: kid, algorithm, publicJwk: { ...jwk, kid, alg: algorithm, use: 'sig' } }
}

function publicJwk(token: Token, handle: Handle, algorithm: SigningAlgorithm): JWK {
  const { p11 } = token
  if (algorithm === 'RS256') {
    const [n, e] = attributes(token, handle, [p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT])
    return { kty: 'RSA', n: encodeUint(n!), e: encodeUint(e!) }
  }
  // Modules give the point in a DER octet string or bare; its coordinates are the last bytes of either.
  const [point] = attributes(token, handle, [p11.CKA_EC_POINT])
  if (algorithm === 'EdDSA') return { kty: 'OKP', crv: 'Ed25519', x: base64url.encode(point!.subarray(-32)) }
  return {
    kty: 'EC',
    crv: 'P-256',
    x: base64url.encode(point!.subarray(-64, -32)),
    y: base64url.encode(point!.subarray(-32)),
  }
}

// RFC 7518 section 2: as few bytes as the number needs, where a module may pad.
const encodeUint = (bytes: Buffer): string =>
  base64url.encode(bytes.subarray(bytes.findIndex((byte) => byte !== 0)))

function algorithmOf(token: Token, handle: Handle): SigningAlgorithm {
  const [keyType] = attributes(token, handle, [token.p11.CKA_KEY_TYPE])
  switch (keyType!.readUIntLE(0, 4)) {
    case token.p11.CKK_EC:
      return 'ES256'
    case CKK_EC_EDWARDS:
      return 'EdDSA'
    default:
      return 'RS256'
  }
}

// CKM_ECDSA signs a digest and answers with r‖s, as JOSE wants it.
function signing(p11: Library, algorithm: SigningAlgorithm): { mechanism: number; hash: boolean } {
  if (algorithm === 'ES256') return { mechanism: p11.CKM_ECDSA, hash: true }
  return { mechanism: algorithm === 'EdDSA' ? CKM_EDDSA : p11.CKM_SHA256_RSA_PKCS, hash: false }
}

function attributes({ module, session }: Token, handle: Handle, types: number[]): Buffer[] {
  return module
    .C_GetAttributeValue(
      session,
      handle,
      types.map((type) => ({ type })),
    )
    .map(({ value }) => value)
}

function findObject({ p11, module, session }: Token, kind: number, ref: string): Handle | undefined {
  module.C_FindObjectsInit(session, [
    { type: p11.CKA_CLASS, value: kind },
    { type: p11.CKA_ID, value: Buffer.from(ref) },
  ])
  try {
    return module.C_FindObjects(session, 1)[0]
  } finally {
    module.C_FindObjectsFinal(session)
  }
}

function requireObject(token: Token, kind: number, ref: string): Handle {
  const handle = findObject(token, kind, ref)
  if (handle === undefined) throw unknownKey(ref)
  return handle
}

const codeOf = (error: unknown): number | undefined => (error as { code?: number }).code

function translate(p11: Library, error: unknown, name: string): unknown {
  if (error instanceof TabibError || !(error instanceof p11.NativeError)) return error
  const refusals = [
    p11.CKR_PIN_INCORRECT,
    p11.CKR_PIN_INVALID,
    p11.CKR_PIN_LEN_RANGE,
    p11.CKR_PIN_EXPIRED,
    p11.CKR_PIN_LOCKED,
    p11.CKR_USER_PIN_NOT_INITIALIZED,
  ]
  if (refusals.includes(codeOf(error)!)) {
    return new TabibError('NOT_AUTHORISED', `the token "${name}" refuses the PIN: ${error.message}`, {
      cause: error,
    })
  }
  return new TabibError('KEY_STORE_UNREACHABLE', `the token "${name}" failed: ${error.message}`, {
    cause: error,
  })
}
