import { TabibError } from '../../errors.ts'
import { readSecretFile as read, type SecretFileUse } from '../secret-file.ts'

/** What opens a key store. */
export const OPENS_KEY_STORE = {
  what: 'key store',
  variable: 'TABIB_KEY_STORE_SECRET_FILE',
  unreadable: 'KEY_STORE_UNREACHABLE',
} as const

/** The text of the file that opens a key store; see `adapters/secret-file.ts`. */
export const readSecretFile = (path: string | undefined, use: Pick<SecretFileUse, 'holds' | 'make'>) =>
  read(path, { ...OPENS_KEY_STORE, ...use })

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
