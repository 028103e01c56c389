import {
  createECDH,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  privateEncrypt,
  randomUUID,
  sign,
} from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { AwsError, verifySignature } from './aws-signature.ts'

/**
 * What a KMS may do to its callers: be late, answer with this status, hang up, answer with nonsense, or lose the answer
 * to the first call of an operation after it was carried out.
 */
export type KmsFault =
  | { delayMs: number }
  | { status: number }
  | { losesAnswerOf: string }
  | 'drop'
  | 'garbage'

export interface KmsSimulator extends AsyncDisposable {
  /** What `TABIB_KEY_STORE` names it by. */
  readonly keyStore: string
  /** An AWS credentials file's text that it takes. */
  readonly credentials: string
  /** How often each operation was asked for, signed rightly or not. */
  readonly calls: ReadonlyMap<string, number>
  /** Does this to every call, and nothing any more when undefined. */
  misbehave(fault: KmsFault | undefined): void
  /** Another region's KMS answers in its place: well, and with none of the keys. */
  failOver(): void
}

interface Key {
  arn: string
  spec: string
  state: 'Enabled' | 'PendingDeletion'
  privateKey: KeyObject
}

const REGION = 'af-sandbox-1'

/**
 * The part of AWS KMS that signs: its JSON 1.1 protocol on loopback, with request signatures (SigV4) verified from the
 * published description and not by the client's library, and the errors of the real one. Keys live as long as it does.
 */
export async function startKms({ port = 0 }: { port?: number } = {}): Promise<KmsSimulator> {
  const credentials = { id: `AKIA${randomUUID().slice(0, 8).toUpperCase()}`, secret: randomUUID() }
  const keys = new Map<string, Key>()
  const aliases = new Map<string, string>()
  const calls = new Map<string, number>()
  let fault: KmsFault | undefined
  let region = REGION

  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const body = await text(request)
    const operation = String(request.headers['x-amz-target']).replace('TrentService.', '')
    calls.set(operation, (calls.get(operation) ?? 0) + 1)
    if (fault === 'drop') return void request.socket.destroy()
    if (fault === 'garbage') return void response.end('<html>It works!</html>')
    if (fault && 'status' in fault) return reply(response, fault.status, errorOf('KMSInternalException'))
    if (fault && 'delayMs' in fault) await delay(fault.delayMs)
    try {
      verifySignature(request, body, { ...credentials, region: REGION, service: 'kms' })
      const perform = OPERATIONS[operation]
      if (!perform) throw new AwsError('UnknownOperationException')
      const done = await perform(JSON.parse(body), { keys, aliases, region })
      if (typeof fault === 'object' && 'losesAnswerOf' in fault && fault.losesAnswerOf === operation) {
        fault = undefined
        return void request.socket.destroy()
      }
      reply(response, 200, done)
    } catch (error) {
      if (!(error instanceof AwsError)) return reply(response, 500, errorOf('KMSInternalException'))
      reply(response, 400, errorOf(error.type, error.message))
    }
  }
  const server = createServer((request, response) => void answer(request, response))
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  const { port: listens } = server.address() as AddressInfo
  return {
    keyStore: `kms:http://127.0.0.1:${listens}?region=${REGION}`,
    credentials: `[default]\naws_access_key_id = ${credentials.id}\naws_secret_access_key = ${credentials.secret}\n`,
    calls,
    misbehave(next) {
      fault = next
    },
    failOver() {
      fault = undefined
      region = 'af-sandbox-2'
      keys.clear()
      aliases.clear()
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

const errorOf = (type: string, message = '') => ({ __type: type, message })

function reply(response: ServerResponse, status: number, body: object | undefined): void {
  response.writeHead(status, { 'content-type': 'application/x-amz-json-1.1' })
  response.end(body && JSON.stringify(body))
}

type Body = Record<string, string>
interface State {
  keys: Map<string, Key>
  aliases: Map<string, string>
  /** In which keys are made. */
  region: string
}

const OPERATIONS: Record<
  string,
  (body: Body, state: State) => Promise<object | undefined> | object | undefined
> = {
  async CreateKey({ KeySpec = '', KeyUsage }, { keys, region }) {
    const make = SPECS[KeySpec]?.generate
    if (!make || KeyUsage !== 'SIGN_VERIFY') throw new AwsError('ValidationException', `KeySpec ${KeySpec}`)
    const id = randomUUID()
    const arn = `arn:aws:kms:${region}:000000000000:key/${id}`
    keys.set(id, { arn, spec: KeySpec, state: 'Enabled', privateKey: await make() })
    return { KeyMetadata: { KeyId: id, Arn: arn, KeySpec, KeyUsage, KeyState: 'Enabled' } }
  },
  CreateAlias({ AliasName = '', TargetKeyId = '' }, { keys, aliases }) {
    if (aliases.has(AliasName)) throw new AwsError('AlreadyExistsException', AliasName)
    if (!keys.has(TargetKeyId)) throw new AwsError('NotFoundException', TargetKeyId)
    aliases.set(AliasName, TargetKeyId)
    return undefined
  },
  DescribeKey({ KeyId }, state) {
    const { arn, spec, state: KeyState } = keyOf(KeyId, state)
    return { KeyMetadata: { KeyId: arn.split('/')[1], Arn: arn, KeySpec: spec, KeyState } }
  },
  GetPublicKey({ KeyId }, state) {
    const { arn, spec, privateKey } = enabledKey(KeyId, state)
    const spki = createPublicKey(privateKey).export({ format: 'der', type: 'spki' })
    return { KeyId: arn, KeySpec: spec, KeyUsage: 'SIGN_VERIFY', PublicKey: spki.toString('base64') }
  },
  Sign({ KeyId, Message = '', MessageType, SigningAlgorithm = '' }, state) {
    const { arn, spec, privateKey } = enabledKey(KeyId, state)
    const { signs, messageType, signWith } = SPECS[spec]!
    if (signs !== SigningAlgorithm || messageType !== MessageType) {
      throw new AwsError('ValidationException', `${SigningAlgorithm} of ${MessageType} with ${spec}`)
    }
    const message = Buffer.from(Message, 'base64')
    if (messageType === 'DIGEST' && message.length !== 32) {
      throw new AwsError('ValidationException', 'Digest is invalid length for algorithm')
    }
    if (message.length > 4096) throw new AwsError('ValidationException', 'Message is too long')
    return { KeyId: arn, SigningAlgorithm, Signature: signWith(privateKey, message).toString('base64') }
  },
  ScheduleKeyDeletion({ KeyId = '' }, { keys }) {
    // Unlike others it takes no alias.
    const key = keys.get(KeyId.split('/').at(-1)!)
    if (!key || KeyId.startsWith('alias/')) throw new AwsError('NotFoundException', KeyId)
    if (key.state === 'PendingDeletion') throw new AwsError('KMSInvalidStateException', key.arn)
    key.state = 'PendingDeletion'
    return { KeyId: key.arn, KeyState: key.state }
  },
}

function keyOf(id: string | undefined, { keys, aliases }: State): Key {
  const key = keys.get(aliases.get(id ?? '') ?? id?.split('/').at(-1) ?? '')
  if (!key) throw new AwsError('NotFoundException', `${id} is not found.`)
  return key
}

function enabledKey(id: string | undefined, state: State): Key {
  const key = keyOf(id, state)
  if (key.state !== 'Enabled')
    throw new AwsError('KMSInvalidStateException', `${key.arn} is pending deletion.`)
  return key
}

interface Spec {
  signs: string
  messageType: 'DIGEST' | 'RAW'
  generate(): Promise<KeyObject>
  signWith(key: KeyObject, message: Buffer): Buffer
}

const pair = promisify(generateKeyPair) as unknown as (
  type: string,
  options: object,
) => Promise<{ privateKey: KeyObject }>

/** DER of `DigestInfo` for SHA-256 up to the digest (RFC 8017 section 9.2, note 1). */
const DIGEST_INFO = Buffer.from('3031300d060960864801650304020105000420', 'hex')

const SPECS: Record<string, Spec> = {
  ECC_NIST_P256: {
    signs: 'ECDSA_SHA_256',
    messageType: 'DIGEST',
    generate: async () => (await pair('ec', { namedCurve: 'P-256' })).privateKey,
    signWith: signP256,
  },
  ECC_NIST_EDWARDS25519: {
    signs: 'ED25519_SHA_512',
    messageType: 'RAW',
    generate: async () => (await pair('ed25519', {})).privateKey,
    signWith: (key, message) => sign(null, message, key),
  },
  RSA_2048: {
    signs: 'RSASSA_PKCS1_V1_5_SHA_256',
    messageType: 'DIGEST',
    generate: async () => (await pair('rsa', { modulusLength: 2048 })).privateKey,
    signWith: (key, digest) => privateEncrypt(key, Buffer.concat([DIGEST_INFO, digest])),
  },
}

/** Order of P-256's base point (SEC 2, section 2.4.2). */
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n

/** ECDSA (FIPS 186-5 section 6.4) of a digest, in DER: Node signs messages only. */
function signP256(key: KeyObject, digest: Buffer): Buffer {
  const integer = (hex: string) => BigInt(`0x${hex}`)
  const d = integer(Buffer.from(key.export({ format: 'jwk' }).d ?? '', 'base64url').toString('hex'))
  const nonce = createECDH('prime256v1')
  // The point's first coordinate comes after one byte that says it is not compressed.
  const r = integer(nonce.generateKeys('hex').slice(2, 66)) % ORDER
  const inverse = power(integer(nonce.getPrivateKey('hex')), ORDER - 2n)
  const s = (inverse * (integer(digest.toString('hex')) + r * d)) % ORDER
  const integers = Buffer.concat([r, s].map(derInteger))
  return Buffer.concat([Buffer.from([0x30, integers.length]), integers])
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n
  for (let square = base, left = exponent; left > 0n; left >>= 1n, square = (square * square) % ORDER) {
    if (left & 1n) result = (result * square) % ORDER
  }
  return result
}

function derInteger(value: bigint): Buffer {
  const hex = value.toString(16)
  const even = hex.length % 2 === 0 ? hex : `0${hex}`
  // A first byte of 0x80 and more would make it negative.
  const bytes = Buffer.from(even < '8' ? even : `00${even}`, 'hex')
  return Buffer.concat([Buffer.from([0x02, bytes.length]), bytes])
}
