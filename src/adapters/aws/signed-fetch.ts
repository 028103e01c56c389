import { AwsV4Signer } from 'aws4fetch'
import { type ErrorCode, TabibError } from '../../errors.ts'
import type { Fetch } from '../http/client.ts'
import { readSecretFile } from '../secret-file.ts'

/** A service of AWS, or what speaks its API, and who asks it. */
export interface AwsPlace {
  service: 'kms' | 's3'
  region: string
  /** An AWS credentials file, read at each call so that a rotated secret is taken up. */
  secretFile: string | undefined
  /** What the file opens, for errors, and their code when it cannot be read. */
  opens: { what: string; variable: string; unreadable: ErrorCode }
  fetch: Fetch
}

export interface AwsRequest {
  method: string
  url: string
  headers?: Record<string, string>
  body?: string | Buffer
  timeoutMs: number
}

/**
 * One request with AWS Signature Version 4. Rejects as fetch does when there is no answer in time.
 * @throws TabibError CONFIG_INVALID when the credentials file holds none.
 */
export async function signedFetch(place: AwsPlace, request: AwsRequest): Promise<Response> {
  const { method, url, headers = {}, body, timeoutMs } = request
  const signer = new AwsV4Signer({
    method,
    url,
    headers,
    ...(body === undefined ? {} : { body }),
    service: place.service,
    region: place.region,
    ...(await readCredentials(place)),
  })
  const { url: signedUrl, ...signed } = await signer.sign()
  return place.fetch(signedUrl, {
    ...signed,
    signal: AbortSignal.timeout(timeoutMs),
    redirect: 'error',
  } as RequestInit)
}

const MAKE = '(umask 077; cp ~/.aws/credentials aws.secret)'

/** The `default` profile of the AWS credentials file. */
async function readCredentials({ secretFile, opens }: AwsPlace) {
  const text = await readSecretFile(secretFile, { ...opens, holds: 'AWS credentials', make: MAKE })
  const profile = /(?:^|\n)\s*\[default\]([^[]*)/.exec(text)?.[1] ?? ''
  const value = (name: string) => new RegExp(`^\\s*${name}\\s*=\\s*(\\S+)`, 'm').exec(profile)?.[1]
  const accessKeyId = value('aws_access_key_id')
  const secretAccessKey = value('aws_secret_access_key')
  const sessionToken = value('aws_session_token')
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new TabibError(
      'CONFIG_INVALID',
      `the ${opens.what}’s secret file lacks aws_access_key_id or aws_secret_access_key below [default]`,
      { suggestions: [MAKE] },
    )
  }
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) }
}
