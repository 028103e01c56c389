import { TabibError } from '../../errors.ts'
import type { Fetch } from '../http/client.ts'
import { openFileStore } from './files.ts'
import { openS3Store } from './s3.ts'

/** A PDF that was written to a file of its own and waits to be stored. */
export interface Draft {
  path: string
  /** SHA-256 of its bytes, hexadecimal. */
  sha256: string
  bytes: number
}

/** Where statements lie. Keys are `<tenant id>/<period>/<account id>.pdf`. */
export interface StatementStore {
  /** A folder for drafts, for this process's user alone. */
  readonly drafts: string
  /** Removes drafts whose names begin so: of a process that was killed. */
  clearDrafts(prefix: string): Promise<void>
  /**
   * Makes the draft what lies under the key, as a whole or not at all, and durable when it returns. Where the same bytes lie
   * already nothing is written. Leaves the draft to be removed by the caller.
   */
  put(key: string, draft: Draft): Promise<{ written: boolean }>
  /** What lies under the key. */
  find(key: string): Promise<Pick<Draft, 'sha256' | 'bytes'> | undefined>
  /** Removes what lies under the key; nothing is fine as well. */
  remove(key: string): Promise<void>
}

export interface StatementStoreOptions {
  /** `file:<folder>`, or `s3:https://<endpoint>/<bucket>`, with `?region=` where the host names none. */
  url: string | undefined
  /** Of an S3: an AWS credentials file. */
  secretFile: string | undefined
  /** What a tenant's data may be sent by. */
  fetch: Fetch
}

/**
 * Opens a statement store.
 *
 * @throws TabibError CONFIG_INVALID; STATEMENT_STORE_UNREACHABLE when its folder cannot be used. Its methods throw
 * STATEMENT_STORE_UNREACHABLE (a full disk, no answer: safe to retry), NOT_AUTHORISED, CONFIG_INVALID, EGRESS_REFUSED.
 */
export async function openStatementStore(options: StatementStoreOptions): Promise<StatementStore> {
  const { url } = options
  if (url?.startsWith('file:')) return openFileStore(url.slice('file:'.length))
  if (url?.startsWith('s3:')) return openS3Store({ ...options, url })
  throw new TabibError(
    'CONFIG_INVALID',
    url === undefined
      ? 'no statement store is configured: there is no place for PDFs'
      : `a statement store is file:<folder> or s3:https://<endpoint>/<bucket>, not "${url.slice(0, 40)}"`,
    { suggestions: ['export TABIB_STATEMENT_STORE=file:/srv/statements'] },
  )
}
