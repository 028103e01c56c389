import { readFile, stat } from 'node:fs/promises'
import { type ErrorCode, TabibError } from '../errors.ts'

export interface SecretFileUse {
  /** What it opens: `key store`. */
  what: string
  /** The environment variable that names the file. */
  variable: string
  /** The code of the error when it cannot be read. */
  unreadable: ErrorCode
  /** What should stand in it, and a command that makes it. */
  holds: string
  make: string
}

/**
 * The text of a file that holds a secret, without white space around it.
 * @throws TabibError CONFIG_INVALID when none is configured or others can read it; `unreadable` when it cannot be read.
 */
export async function readSecretFile(
  path: string | undefined,
  { what, variable, unreadable, holds, make }: SecretFileUse,
): Promise<string> {
  if (path === undefined) {
    throw new TabibError('CONFIG_INVALID', `the ${what} wants ${holds}, and no file holds one`, {
      suggestions: [make, `export ${variable}=<the file>`],
    })
  }
  const [text, { mode }] = await Promise.all([readFile(path, 'utf8'), stat(path)]).catch((cause) => {
    throw new TabibError(
      unreadable,
      `the ${what} cannot use ${path}: ${(cause as NodeJS.ErrnoException).code}`,
      { cause },
    )
  })
  // A group may read: Kubernetes gives a secret's files to the group of the pod's user alone.
  if (mode & 0o027) {
    const seen = (mode & 0o777).toString(8)
    throw new TabibError(
      'CONFIG_INVALID',
      `${path} can be read by others, or written by a group (mode ${seen})`,
      { suggestions: [`chmod 600 ${path}`] },
    )
  }
  return text.trim()
}
