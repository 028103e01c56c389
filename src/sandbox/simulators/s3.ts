import { createHash, randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { AwsError, verifySignature } from './aws-signature.ts'

/** What an S3 may do to its callers: answer all with this status, hang up, or lose the answer to one upload that it has stored. */
export type S3Fault = { status: number } | 'drop' | 'loses the answer to an upload'

export interface S3Simulator extends AsyncDisposable {
  /** What `TABIB_STATEMENT_STORE` names it by. */
  readonly store: string
  /** An AWS credentials file's text that it takes. */
  readonly credentials: string
  /** What lies in the bucket, by key. */
  readonly objects: ReadonlyMap<string, { bytes: Buffer; headers: IncomingMessage['headers'] }>
  /** Uploads that were stored. */
  readonly uploads: number
  /** Does this to every call, and nothing any more when undefined. */
  misbehave(fault: S3Fault | undefined): void
}

const REGION = 'af-sandbox-1'
const BUCKET = 'statements'
const STATUS: Record<string, number> = { NoSuchKey: 404, NoSuchBucket: 404, BadDigest: 400 }

/**
 * The part of S3 that keeps objects: path-style requests on loopback, with signatures (SigV4) and digests of uploads verified
 * from the published description and not by the client's library, and the errors of the real one.
 */
export async function startS3(): Promise<S3Simulator> {
  const caller = {
    id: `AKIA${randomUUID().slice(0, 8).toUpperCase()}`,
    secret: randomUUID(),
    region: REGION,
    service: 's3',
  }
  const objects = new Map<string, { bytes: Buffer; headers: IncomingMessage['headers'] }>()
  let uploads = 0
  let fault: S3Fault | undefined

  const perform = (request: IncomingMessage, bytes: Buffer, response: ServerResponse): void => {
    const [, bucket = '', key = ''] = /^\/([^/]+)\/(.+)$/.exec(request.url ?? '') ?? []
    if (bucket !== BUCKET) throw new AwsError('NoSuchBucket')
    const found = objects.get(key)
    if (request.method === 'PUT') {
      objects.set(key, { bytes, headers: request.headers })
      uploads += 1
      if (fault === 'loses the answer to an upload') {
        fault = undefined
        return void request.socket.destroy()
      }
      return void response.end()
    }
    if (request.method === 'DELETE') {
      objects.delete(key)
      return void response.writeHead(204).end()
    }
    if (found === undefined) throw new AwsError('NoSuchKey')
    for (const [name, value] of Object.entries(found.headers)) {
      if (name.startsWith('x-amz-meta-')) response.setHeader(name, value!)
    }
    response.setHeader('content-length', found.bytes.length)
    response.end(request.method === 'HEAD' ? undefined : found.bytes)
  }
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const bytes = await buffer(request)
    if (fault === 'drop') return void request.socket.destroy()
    if (typeof fault === 'object') return void response.writeHead(fault.status).end()
    try {
      verifySignature(request, bytes, caller)
      verifyDigests(request, bytes)
      perform(request, bytes, response)
    } catch (error) {
      const { type, message } = error instanceof AwsError ? error : new AwsError('InternalError')
      response.writeHead(type === 'InternalError' ? 500 : (STATUS[type] ?? 403), {
        'content-type': 'application/xml',
      })
      response.end(
        request.method === 'HEAD'
          ? undefined
          : `<Error><Code>${type}</Code><Message>${message}</Message></Error>`,
      )
    }
  }
  const server = createServer((request, response) => void answer(request, response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    store: `s3:http://127.0.0.1:${port}/${BUCKET}?region=${REGION}`,
    credentials: `[default]\naws_access_key_id = ${caller.id}\naws_secret_access_key = ${caller.secret}\n`,
    objects,
    get uploads() {
      return uploads
    },
    misbehave(next) {
      fault = next
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html */
function verifyDigests({ headers }: IncomingMessage, bytes: Buffer): void {
  const digest = createHash('sha256').update(bytes).digest()
  if (
    headers['x-amz-content-sha256'] !== digest.toString('hex') &&
    headers['x-amz-content-sha256'] !== 'UNSIGNED-PAYLOAD'
  ) {
    throw new AwsError('XAmzContentSHA256Mismatch')
  }
  const checksum = headers['x-amz-checksum-sha256']
  if (checksum !== undefined && checksum !== digest.toString('base64')) throw new AwsError('BadDigest')
}
