import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { TabibError } from '../../errors.ts'
import { requirePrograms } from './find.ts'

export interface SoftHsm {
  /** What `TABIB_KEY_STORE` names it by. */
  readonly keyStore: string
  /** The user's PIN. */
  readonly pin: string
  /** For a child process that uses the token. */
  readonly env: Record<string, string>
  /** From now on every call into the module hangs, in whatever process, until this is disposed. */
  freeze(): Promise<AsyncDisposable>
}

// Debian's, Fedora's, Homebrew's.
const MODULES = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib64/softhsm/libsofthsm2.so',
  '/opt/homebrew/lib/softhsm/libsofthsm2.so',
]

/**
 * Makes a token of SoftHSM's in a folder. SoftHSM reads where its tokens lie once a process, so this process can use
 * one such folder alone.
 *
 * @throws TabibError SERVER_MISSING, SERVER_FAILED
 */
export async function makeSoftHsm(folder: string): Promise<SoftHsm> {
  await requirePrograms(['softhsm2-util'])
  const path = MODULES.find(existsSync)
  if (path === undefined) throw new TabibError('SERVER_FAILED', 'softhsm2 is installed without its module')
  const configFile = join(folder, 'softhsm2.conf')
  await mkdir(join(folder, 'tokens'))
  await writeFile(configFile, `directories.tokendir = ${join(folder, 'tokens')}\nlog.level = ERROR\n`)
  process.env.SOFTHSM2_CONF = configFile

  const { default: p11 } = (await import('pkcs11js')) as unknown as { default: typeof import('pkcs11js') }
  const pin = randomUUID()
  const module = new p11.PKCS11()
  module.load(path)
  module.C_Initialize()
  try {
    // The first slot is always free; the token that is made there moves to another.
    const supervisorPin = randomUUID()
    module.C_InitToken(module.C_GetSlotList()[0]!, supervisorPin, 'tabib'.padEnd(32))
    const session = module.C_OpenSession(
      module.C_GetSlotList(true)[0]!,
      p11.CKF_SERIAL_SESSION | p11.CKF_RW_SESSION,
    )
    module.C_Login(session, p11.CKU_SO, supervisorPin)
    module.C_InitPIN(session, pin)
    module.C_CloseSession(session)
  } finally {
    module.C_Finalize()
  }
  return {
    keyStore: `pkcs11:token=tabib?module-path=${path}`,
    pin,
    env: { SOFTHSM2_CONF: configFile },
    freeze: () => freeze(join(folder, 'tokens')),
  }
}

/** SoftHSM reads a token's `generation` before it touches an object, and a pipe that nobody writes to never answers. */
async function freeze(tokens: string): Promise<AsyncDisposable> {
  const [token = ''] = await readdir(tokens)
  const file = join(tokens, token, 'generation')
  await rename(file, `${file}.kept`)
  await promisify(execFile)('mkfifo', [file])
  return {
    async [Symbol.asyncDispose]() {
      await rename(`${file}.kept`, file)
    },
  }
}
