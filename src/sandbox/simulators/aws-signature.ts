import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

/** What AWS answers a request with that it refuses: the error's type, and words. */
export class AwsError extends Error {
  readonly type: string
  constructor(type: string, message = '') {
    super(message)
    this.type = type
  }
}

/** Whose signature is good, and for what. */
export interface Caller {
  id: string
  secret: string
  region: string
  service: string
}

/** A request is good for five minutes, either way. */
const SKEW_MS = 5 * 60_000

/** https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html, from the receiving end. */
export function verifySignature(request: IncomingMessage, body: string | Buffer, known: Caller): void {
  const { authorization, host, 'x-amz-date': at } = request.headers as Record<string, string | undefined>
  if (authorization === undefined) {
    throw new AwsError('MissingAuthenticationTokenException', 'Missing Authentication Token')
  }
  const [, id, day, region, service, names = '', signature = ''] =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/([^/]+)\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
      authorization,
    ) ?? []
  if (!signature || !at || !/^\d{8}T\d{6}Z$/.test(at)) throw new AwsError('IncompleteSignatureException')
  const signed = names.split(';')
  if (signed.join(';') !== [...signed].sort().join(';') || /[A-Z]/.test(names)) {
    throw new AwsError('IncompleteSignatureException', 'SignedHeaders must be in lower case and sorted.')
  }
  const unsigned = ['host', ...Object.keys(request.headers).filter((name) => name.startsWith('x-amz-'))]
    .filter((name) => !signed.includes(name))
    .at(0)
  if (unsigned) {
    const message = `'${unsigned}' must be a 'SignedHeader' in the AWS Authorization.`
    throw new AwsError('InvalidSignatureException', message)
  }
  if (id !== known.id) {
    const message = 'The security token included in the request is invalid.'
    throw new AwsError('UnrecognizedClientException', message)
  }
  if (region !== known.region || service !== known.service || !at.startsWith(day!)) {
    const message = `Credential should be scoped to ${known.region}/${known.service}.`
    throw new AwsError('InvalidSignatureException', message)
  }
  const sentMs = Date.parse(at.replace(/^(....)(..)(..)T(..)(..)(..)Z$/, '$1-$2-$3T$4:$5:$6Z'))
  if (Date.now() - sentMs > SKEW_MS)
    throw new AwsError('InvalidSignatureException', `Signature expired: ${at}`)
  if (sentMs - Date.now() > SKEW_MS) {
    throw new AwsError('InvalidSignatureException', `Signature not yet current: ${at}`)
  }
  const { pathname, searchParams } = new URL(request.url ?? '/', `http://${host}`)
  searchParams.sort()
  const headers = signed.map(
    (name) => `${name}:${String(request.headers[name]).trim().replace(/ +/g, ' ')}\n`,
  )
  // S3 signs what the header says of the body, KMS the body.
  const digest = request.headers['x-amz-content-sha256'] ?? sha256(body)
  const canonical = [request.method, pathname, searchParams, headers.join(''), names, digest].join('\n')
  const scope = `${day}/${region}/${service}/aws4_request`
  const toSign = ['AWS4-HMAC-SHA256', at, scope, sha256(canonical)].join('\n')
  const key = scope
    .split('/')
    .reduce<string | Buffer>((secret, part) => hmac(secret, part), `AWS4${known.secret}`)
  if (!timingSafeEqual(hmac(key, toSign), Buffer.from(signature, 'hex'))) {
    throw new AwsError(
      'InvalidSignatureException',
      'The request signature we calculated does not match the signature you provided.',
    )
  }
}

const sha256 = (data: string | Buffer) => createHash('sha256').update(data).digest('hex')
const hmac = (key: string | Buffer, data: string) => createHmac('sha256', key).update(data).digest()
