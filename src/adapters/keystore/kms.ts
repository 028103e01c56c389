import { createHash, createPublicKey } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { calculateJwkThumbprint, exportJWK, type JWK } from 'jose'
import * as z from 'zod'
import { TabibError } from '../../errors.ts'
import { signedFetch } from '../aws/signed-fetch.ts'
import type { Fetch } from '../http/client.ts'
import type { KeyStore, KeyStoreOptions, SigningAlgorithm, StoredKey } from './client.ts'
import { p1363FromDer } from './der.ts'
import { publicMembers } from './public-members.ts'
import { OPENS_KEY_STORE, unknownKey } from './secret-file.ts'

/** Key spec and signing algorithm of KMS. Ed25519ph signs digests, and JOSE's EdDSA is Ed25519 over the message. */
const ALGORITHMS: Record<SigningAlgorithm, { spec: string; signs: string; digest: boolean }> = {
  ES256: { spec: 'ECC_NIST_P256', signs: 'ECDSA_SHA_256', digest: true },
  EdDSA: { spec: 'ECC_NIST_EDWARDS25519', signs: 'ED25519_SHA_512', digest: false },
  RS256: { spec: 'RSA_2048', signs: 'RSASSA_PKCS1_V1_5_SHA_256', digest: true },
}
const TRIES = 3
const TRY_MS = 1_200
// The primes of an RSA key are searched for, which takes a second or several; and nobody asks a second time.
const ONCE_MS = 10_000
const FIRST_PAUSE_MS = 50
/** The shortest that KMS allows; a key signs nothing from the first moment of it. */
const DELETION_DAYS = 7

/**
 * Keys in AWS KMS, or in what speaks its API. The URL is `kms:` and the endpoint; `?region=` where its host does not
 * name one. `secretFile` is an AWS credentials file, read at each call so that a rotated secret is taken up. A key is
 * found by its alias, `alias/tabib/<kid>`.
 *
 * @throws TabibError CONFIG_INVALID
 */
export async function openKmsStore({ url, secretFile, fetch }: KeyStoreOptions): Promise<KeyStore> {
  const { endpoint, region } = parseKmsUrl(url)
  // What is known of a key never changes. The ARN is used from here on: a new alias takes a while to be seen.
  const known = new Map<string, { key: StoredKey; arn: string }>()

  const call = <T>(operation: string, body: object, answer: z.ZodType<T>, options?: { once: boolean }) =>
    callKms({ endpoint, region, secretFile, fetch }, { operation, body, answer, ...options })

  const read = async (keyId: string): Promise<{ key: StoredKey; arn: string }> => {
    const { PublicKey, KeyId } = await call('GetPublicKey', { KeyId: keyId }, publicKeyAnswer)
    const key = await describe(PublicKey)
    return { key, arn: KeyId }
  }
  const describeKey = (ref: string) =>
    call('DescribeKey', { KeyId: aliasOf(ref) }, keyAnswer).catch(unless('NotFoundException'))
  const lookUp = async (ref: string) => {
    const found = known.get(ref) ?? (await read(aliasOf(ref)).catch((error) => rename(error, ref)))
    known.set(ref, found)
    return found
  }

  return {
    async generate(algorithm) {
      const { KeyMetadata } = await call(
        'CreateKey',
        { KeySpec: ALGORITHMS[algorithm].spec, KeyUsage: 'SIGN_VERIFY', Description: 'tabib' },
        keyAnswer,
        // A second key would be paid for and never used.
        { once: true },
      )
      const made = await read(KeyMetadata.KeyId)
      await call(
        'CreateAlias',
        { AliasName: aliasOf(made.key.ref), TargetKeyId: KeyMetadata.KeyId },
        z.unknown(),
        // Whose answer was lost has made it.
      ).catch(unless('AlreadyExistsException'))
      known.set(made.key.ref, made)
      return made.key
    },
    find: async (ref) => (await lookUp(ref)).key,
    async sign(ref, bytes) {
      const { key, arn } = await lookUp(ref)
      const { signs, digest } = ALGORITHMS[key.algorithm]
      const message = digest ? createHash('sha256').update(bytes).digest() : Buffer.from(bytes)
      const { Signature } = await call(
        'Sign',
        {
          KeyId: arn,
          SigningAlgorithm: signs,
          MessageType: digest ? 'DIGEST' : 'RAW',
          Message: message.toString('base64'),
        },
        signatureAnswer,
      ).catch((error) => rename(error, ref))
      return key.algorithm === 'ES256' ? p1363Of(Signature) : Signature
    },
    async destroy(ref) {
      const found = await describeKey(ref)
      if (found) {
        const { KeyId } = found.KeyMetadata
        // The alias goes with the key, and shows until then that it was here.
        await call('ScheduleKeyDeletion', { KeyId, PendingWindowInDays: DELETION_DAYS }, z.unknown()).catch(
          unless('KMSInvalidStateException'),
        )
      }
      known.delete(ref)
    },
    async identity(ref) {
      const found = await describeKey(ref)
      // arn:aws:kms:<region>:<account>:key/<id>
      const [, , , itsRegion, account] = found?.KeyMetadata.Arn.split(':') ?? []
      return found ? `kms:${itsRegion}/${account}` : `kms:${region}/?`
    },
    async ping() {
      await call('DescribeKey', { KeyId: aliasOf('ping') }, z.unknown()).catch(unless('NotFoundException'))
    },
    async [Symbol.asyncDispose]() {
      known.clear()
    },
  }
}

const base64 = z.base64().transform((text) => Buffer.from(text, 'base64'))
const keyAnswer = z.object({
  KeyMetadata: z.object({ KeyId: z.string(), Arn: z.string() }),
})
const publicKeyAnswer = z.object({ KeyId: z.string(), PublicKey: base64 })
const signatureAnswer = z.object({ Signature: base64 })
const errorAnswer = z.object({ __type: z.string(), message: z.string().default('') })

const aliasOf = (ref: string) => `alias/tabib/${ref}`

function parseKmsUrl(text: string): { endpoint: string; region: string } {
  const suggestions = ['export TABIB_KEY_STORE=kms:https://kms.<region>.amazonaws.com']
  const endpoint = text.slice('kms:'.length)
  if (!/^https?:\/\//.test(endpoint) || !URL.canParse(endpoint)) {
    throw new TabibError('CONFIG_INVALID', 'the URL of a KMS is kms: and an https:// URL', { suggestions })
  }
  const url = new URL(endpoint)
  const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname)
  if (url.protocol === 'http:' && !loopback) {
    throw new TabibError('CONFIG_INVALID', `the KMS at ${url.host} must be reached by https`, { suggestions })
  }
  const region = url.searchParams.get('region') ?? /(?:^|\.)kms(?:-fips)?\.([a-z0-9-]+)\./.exec(url.host)?.[1]
  if (region === undefined) {
    throw new TabibError('CONFIG_INVALID', `which region is the KMS at ${url.host} in?`, {
      suggestions: [`export TABIB_KEY_STORE='kms:${url.origin}?region=<region>'`],
    })
  }
  return { endpoint: url.origin, region }
}

/** What a SubjectPublicKeyInfo in DER holds. */
async function describe(spki: Buffer): Promise<StoredKey> {
  let jwk: JWK
  try {
    jwk = publicMembers(await exportJWK(createPublicKey({ key: spki, format: 'der', type: 'spki' })))
  } catch (cause) {
    throw garbled('GetPublicKey', cause)
  }
  const algorithm = jwk.kty === 'RSA' ? 'RS256' : jwk.kty === 'OKP' ? 'EdDSA' : 'ES256'
  const kid = await calculateJwkThumbprint(jwk)
  return { ref: kid, algorithm, publicJwk: { ...jwk, kid, alg: algorithm, use: 'sig' } }
}

function p1363Of(der: Buffer): Uint8Array {
  try {
    return p1363FromDer(der, 32)
  } catch (cause) {
    throw garbled('Sign', cause)
  }
}

interface Place {
  endpoint: string
  region: string
  secretFile: string | undefined
  fetch: Fetch
}

interface Call<T> {
  operation: string
  body: object
  answer: z.ZodType<T>
  /** Not to be repeated once it may have reached KMS. */
  once?: boolean
}

/** Tries again after failures that may pass, with full jitter (AWS Builders' Library, "Timeouts, retries and backoff"). */
async function callKms<T>(place: Place, call: Call<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await tryKms(place, call)
    } catch (error) {
      const passing = error instanceof TabibError && error.code === 'KEY_STORE_UNREACHABLE'
      if (!passing || attempt === TRIES || (call.once && error.context.reached !== false)) throw error
      await delay(Math.random() * FIRST_PAUSE_MS * 2 ** attempt)
    }
  }
}

async function tryKms<T>(place: Place, { operation, body, answer, once }: Call<T>): Promise<T> {
  const withinMs = once ? ONCE_MS : TRY_MS
  let response: Response
  let text: string
  try {
    response = await signedFetch(
      { ...place, service: 'kms', opens: OPENS_KEY_STORE },
      {
        method: 'POST',
        url: `${place.endpoint}/`,
        headers: {
          'content-type': 'application/x-amz-json-1.1',
          'x-amz-target': `TrentService.${operation}`,
        },
        body: JSON.stringify(body),
        timeoutMs: withinMs,
      },
    )
    text = await response.text()
  } catch (cause) {
    if (cause instanceof TabibError) throw cause
    throw unreachable(place, cause, withinMs)
  }
  const json = parseJson(text)
  if (!response.ok) throw refusal(operation, place, response, errorAnswer.safeParse(json).data)
  const parsed = answer.safeParse(json)
  if (!parsed.success) throw garbled(operation, parsed.error)
  return parsed.data
}

function parseJson(text: string): unknown {
  try {
    // CreateAlias answers with nothing.
    return text === '' ? {} : JSON.parse(text)
  } catch {
    return undefined
  }
}

const MISSING = /^(NotFoundException|KMSInvalidStateException|DisabledException)$/
const REFUSED =
  /^(AccessDenied|UnrecognizedClient|InvalidSignature|IncompleteSignature|ExpiredToken|MissingAuthenticationToken|InvalidClientTokenId|SignatureDoesNotMatch)/
const PASSING =
  /^(DependencyTimeout|KMSInternal|KeyUnavailable|Throttling|LimitExceeded|ServiceUnavailable|InternalFailure)/

function refusal(
  operation: string,
  place: Place,
  response: Response,
  error: z.output<typeof errorAnswer> | undefined,
): TabibError {
  // Older answers qualify the name: com.amazonaws.kms#NotFoundException.
  const type = error?.__type.split('#').at(-1) ?? `HTTP ${response.status}`
  const said = `${operation} at ${new URL(place.endpoint).host}: ${type}`
  if (MISSING.test(type)) return new TabibError('NOT_FOUND', said, { context: { kms: type } })
  if (REFUSED.test(type)) {
    const skewS = Math.round((Date.parse(response.headers.get('date') ?? '') - Date.now()) / 1_000)
    const skewed = Math.abs(skewS) > 240
    return new TabibError(
      'NOT_AUTHORISED',
      skewed
        ? `${said}; the clock of this host is ${Math.abs(skewS)} s ${skewS > 0 ? 'behind' : 'ahead'}`
        : said,
      { suggestions: [skewed ? 'timedatectl status' : 'tabib doctor'] },
    )
  }
  // Only what is refused for good is known not to pass.
  const passing = response.status >= 500 || response.status === 429 || PASSING.test(type)
  if (passing) return new TabibError('KEY_STORE_UNREACHABLE', said, { suggestions: ['tabib doctor'] })
  return new TabibError('CONFIG_INVALID', `${said} ${error?.message ?? ''}`.trim(), {
    context: { kms: type },
  })
}

/** `reached` is false when the request cannot have reached KMS. */
function unreachable({ endpoint }: Place, cause: unknown, withinMs: number): TabibError {
  const { host } = new URL(endpoint)
  const late = cause instanceof Error && cause.name === 'TimeoutError'
  const deeper = (cause as Error).cause as NodeJS.ErrnoException | undefined
  const why = late ? `no answer within ${withinMs} ms` : (deeper?.code ?? 'the connection failed')
  return new TabibError('KEY_STORE_UNREACHABLE', `the KMS at ${host} is unreachable: ${why}`, {
    cause,
    suggestions: ['tabib doctor', 'tabib status virtual-care/F13'],
    context: { reached: !/^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN)$/.test(deeper?.code ?? '') },
  })
}

const garbled = (operation: string, cause: unknown) =>
  new TabibError('KEY_STORE_UNREACHABLE', `the KMS answered ${operation} with something else`, { cause })

/** Passes over the one refusal that means the work is done. */
const unless =
  (type: string) =>
  (error: unknown): undefined => {
    if (!(error instanceof TabibError) || error.context.kms !== type) throw error
  }

function rename(error: unknown, ref: string): never {
  throw error instanceof TabibError && error.code === 'NOT_FOUND' ? unknownKey(ref) : error
}
