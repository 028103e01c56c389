import { readFile, stat } from 'node:fs/promises'
import { TabibError } from '../../errors.ts'

/**
 * The text of the file that opens a key store, without white space around it.
 * @throws TabibError CONFIG_INVALID when none is configured or others can read it; KEY_STORE_UNREACHABLE when it cannot be read.
 */
export async function readSecretFile(
  path: string | undefined,
  { holds, make }: { holds: string; make: string },
): Promise<string> {
  if (path === undefined) {
    throw new TabibError('CONFIG_INVALID', `the key store wants ${holds}, and no file holds one`, {
      suggestions: [make, 'export TABIB_KEY_STORE_SECRET_FILE=$PWD/keystore.secret'],
    })
  }
  const [text, { mode }] = await Promise.all([readFile(path, 'utf8'), stat(path)]).catch((cause) => {
    throw unreadable(path, cause)
  })
  // A group may read: Kubernetes gives a secret's files to the group of the pod's user alone.
  if (mode & 0o027) {
    const seen = (mode & 0o777).toString(8)
    throw new TabibError(
      'CONFIG_INVALID',
      `${path} can be read by others, or written by a group (mode ${seen})`,
      {
        suggestions: [`chmod 600 ${path}`],
      },
    )
  }
  return text.trim()
}

export const unreadable = (path: string, cause: unknown) =>
  new TabibError(
    'KEY_STORE_UNREACHABLE',
    `the key store cannot use ${path}: ${(cause as NodeJS.ErrnoException).code}`,
    { cause },
  )

export const unknownKey = (ref: string) =>
  new TabibError('NOT_FOUND', `the key store has no key ${ref}`, {
    suggestions: ['tabib keys list', 'tabib operator list'],
    context: { ref },
  })
