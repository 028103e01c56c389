import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { TabibError } from '../../errors.ts'
import { type AwsRequest, signedFetch } from '../aws/signed-fetch.ts'
import type { StatementStore, StatementStoreOptions } from './client.ts'
import { clearDrafts, openDrafts, storeFailure } from './files.ts'

const OPENS = {
  what: 'statement store',
  variable: 'TABIB_STATEMENT_STORE_SECRET_FILE',
  unreadable: 'STATEMENT_STORE_UNREACHABLE',
} as const
const TRIES = 4
const FIRST_PAUSE_MS = 100
const TRY_MS = 10_000
// The slowest upload that is waited for.
const BYTES_PER_MS = 100
const SHA256 = 'x-amz-meta-sha256'

/**
 * Statements as objects of an S3 bucket, addressed by path. A PUT is whole or not at all, and S3 holds it against its
 * SHA-256; the same is kept as metadata, by which equal content is known without reading it.
 */
export async function openS3Store({
  url: text,
  secretFile,
  fetch,
}: StatementStoreOptions & { url: string }): Promise<StatementStore> {
  const { base, host, region } = parseS3Url(text)
  const place = { service: 's3', region, secretFile, opens: OPENS, fetch } as const
  // On this host, like a process's own memory, but by a name under which what a killed process left is found again.
  const drafts = join(tmpdir(), `tabib-statements-${process.getuid?.() ?? 0}`)
  await openDrafts(drafts).catch((cause) => {
    throw storeFailure(drafts, cause)
  })

  // All three requests may be repeated.
  const ask = async (key: string, request: Omit<AwsRequest, 'url'>): Promise<Response> => {
    for (let attempt = 1; ; attempt += 1) {
      let why: string
      let cause: unknown
      try {
        const response = await signedFetch(place, { url: `${base}/${key}`, ...request })
        if (response.status < 500 && response.status !== 429) return response
        await response.body?.cancel()
        why = `HTTP ${response.status}`
      } catch (error) {
        // fetch tells what the network did as TypeError.
        const isOfTheWire = error instanceof TypeError || (error as Error).name === 'TimeoutError'
        if (error instanceof TabibError || !isOfTheWire) throw error
        why = whyOf(error)
        cause = error
      }
      if (attempt === TRIES) throw unreachable(host, why, cause)
      await delay(Math.random() * FIRST_PAUSE_MS * 2 ** attempt)
    }
  }
  const find: StatementStore['find'] = async (key) => {
    const response = await ask(key, { method: 'HEAD', timeoutMs: TRY_MS })
    const sha256 = response.headers.get(SHA256)
    if (!response.ok || sha256 === null) return undefined
    return { sha256, bytes: Number(response.headers.get('content-length')) }
  }
  return {
    drafts,
    clearDrafts: (prefix) => clearDrafts(drafts, prefix),
    find,
    async put(key, draft) {
      const found = await find(key)
      if (found?.sha256 === draft.sha256 && found.bytes === draft.bytes) return { written: false }
      const response = await ask(key, {
        method: 'PUT',
        headers: {
          'content-type': 'application/pdf',
          'x-amz-content-sha256': draft.sha256,
          'x-amz-checksum-sha256': Buffer.from(draft.sha256, 'hex').toString('base64'),
          [SHA256]: draft.sha256,
        },
        body: await readFile(draft.path),
        timeoutMs: TRY_MS + Math.ceil(draft.bytes / BYTES_PER_MS),
      })
      if (!response.ok) throw await refusal(host, response)
      await response.body?.cancel()
      return { written: true }
    },
    async remove(key) {
      const response = await ask(key, { method: 'DELETE', timeoutMs: TRY_MS })
      if (!response.ok && response.status !== 404) throw await refusal(host, response)
      await response.body?.cancel()
    },
  }
}

function parseS3Url(text: string): { base: string; host: string; region: string } {
  const suggestions = [
    "export TABIB_STATEMENT_STORE='s3:https://s3.<region>.amazonaws.com/<bucket>'",
    "export TABIB_STATEMENT_STORE='s3:https://<host>/<bucket>?region=<region>'",
  ]
  const endpoint = text.slice('s3:'.length)
  const invalid = (why: string) => new TabibError('CONFIG_INVALID', why, { suggestions })
  if (!/^https?:\/\//.test(endpoint) || !URL.canParse(endpoint)) {
    throw invalid('the URL of an S3 statement store is s3: and an https:// URL with its bucket')
  }
  const url = new URL(endpoint)
  if (url.username + url.password !== '') {
    throw invalid('credentials of a statement store come from its secret file, not from its URL')
  }
  const isLoopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname)
  if (url.protocol === 'http:' && !isLoopback) throw invalid(`the S3 at ${url.host} must be reached by https`)
  const bucket = url.pathname.replace(/^\/|\/$/g, '')
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](\/[\w.-]+)*$/.test(bucket)) {
    throw invalid(`which bucket at ${url.host}? "${bucket}" is the name of none`)
  }
  const region = url.searchParams.get('region') ?? /(?:^|\.)s3[.-]([a-z0-9-]+)\./.exec(url.host)?.[1]
  if (region === undefined) throw invalid(`which region is the S3 at ${url.host} in?`)
  return { base: `${url.origin}/${bucket}`, host: url.host, region }
}

/** What S3 refused for good. The code is in the answer's XML; its message may quote a key. */
async function refusal(host: string, response: Response): Promise<TabibError> {
  const code = /<Code>(\w+)<\/Code>/.exec(await response.text())?.[1] ?? `HTTP ${response.status}`
  if (response.status === 401 || response.status === 403) {
    const skewS = Math.round((Date.parse(response.headers.get('date') ?? '') - Date.now()) / 1_000)
    const skew = Math.abs(skewS) > 240 ? `; the clock of this host is off by ${Math.abs(skewS)} s` : ''
    return new TabibError('NOT_AUTHORISED', `the statement store at ${host} refused: ${code}${skew}`, {
      suggestions: ['ls -l "$TABIB_STATEMENT_STORE_SECRET_FILE"', 'timedatectl status'],
    })
  }
  if (code === 'NoSuchBucket') {
    return new TabibError('CONFIG_INVALID', `the statement store at ${host} has no such bucket`, {
      suggestions: ['tabib doctor'],
    })
  }
  return unreachable(host, code, undefined)
}

function whyOf(cause: unknown): string {
  if (cause instanceof Error && cause.name === 'TimeoutError') return 'no answer in time'
  const deeper = (cause as Error).cause as NodeJS.ErrnoException | undefined
  return deeper?.code ?? 'the connection failed'
}

const unreachable = (host: string, why: string, cause: unknown) =>
  new TabibError('STATEMENT_STORE_UNREACHABLE', `the statement store at ${host} is unreachable: ${why}`, {
    cause,
    suggestions: ['tabib doctor'],
  })
