import { fork } from 'node:child_process'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { TabibError } from '../../errors.ts'
import { packageRoot } from '../../package-root.ts'
import type { KeyStore, KeyStoreOptions } from './client.ts'
import type { Answer, Call } from './pkcs11-process.ts'

/** The id of the answer that the process gives unasked, once it is there. */
const STARTED = 0

/** How long a module may take over one call before its process is given up. */
const LIMIT_MS = 4_000
/**
 * How long its process may take to start before any call. That is Node's work and no token's: on a machine that is busy it
 * took longer than a call may, and was mistaken for an HSM that has frozen.
 */
const START_LIMIT_MS = 60_000
/** An RSA key pair takes small tokens a while. */
const GENERATE_LIMIT_MS = 30_000

/**
 * Keys in a token behind a PKCS#11 module: made there, sensitive, not extractable. The URL is RFC 7512's, with
 * `module-path`; `secretFile` holds the user's PIN. CKA_ID is the key's `kid`.
 *
 * The module runs in a process of its own. A module's calls hold up the thread that makes them, for ever when the HSM
 * has frozen, and it can crash; that process is then ended and the next call starts another. A refused PIN is not tried
 * again, since a few refusals lock a token.
 *
 * @throws TabibError CONFIG_INVALID
 */
export async function openPkcs11Store({ url, secretFile }: KeyStoreOptions): Promise<KeyStore> {
  let running: Promise<ModuleProcess> | undefined
  let refused: TabibError | undefined
  const start = (): Promise<ModuleProcess> => {
    const child = startProcess(() => {
      if (running === starting) running = undefined
    })
    const starting = child.call('open', [{ url, secretFile }], LIMIT_MS).then(
      () => child,
      (error) => {
        child.end()
        throw error
      },
    )
    running = starting
    return starting
  }
  const call = async (method: Call['method'], args: unknown[], limitMs = LIMIT_MS) => {
    if (refused) throw refused
    try {
      return await (await (running ?? start())).call(method, args, limitMs)
    } catch (error) {
      if (error instanceof TabibError && error.code === 'NOT_AUTHORISED') refused = error
      throw error
    }
  }
  // What is wrong with the configuration is told at once.
  await start()
  return {
    async generate(algorithm) {
      // A token that has frozen is not waited for as long as one that makes a key.
      await call('identity', [])
      const made = await call('generate', [algorithm], GENERATE_LIMIT_MS)
      return made as Awaited<ReturnType<KeyStore['generate']>>
    },
    find: async (ref) => (await call('find', [ref])) as Awaited<ReturnType<KeyStore['find']>>,
    sign: async (ref, bytes) => (await call('sign', [ref, bytes])) as Uint8Array,
    destroy: async (ref) => void (await call('destroy', [ref])),
    identity: async (ref) => (await call('identity', [ref])) as string,
    ping: async () => void (await call('ping', [])),
    async [Symbol.asyncDispose]() {
      const last = await running?.catch(() => undefined)
      last?.end()
    },
  }
}

interface ModuleProcess {
  call(method: Call['method'], args: unknown[], limitMs: number): Promise<unknown>
  /** Lets it log out and end; ends it by force when it does not answer. */
  end(): void
}

function startProcess(ended: () => void): ModuleProcess {
  const fromSource = import.meta.url.endsWith('.ts')
  const [folder, suffix] = fromSource ? ['src', 'ts'] : ['dist', 'js']
  const child = fork(join(packageRoot(), folder, `adapters/keystore/pkcs11-process.${suffix}`), {
    execArgv: fromSource ? ['--import', createRequire(import.meta.url).resolve('tsx')] : [],
    serialization: 'advanced',
    // Modules write where they please; and nobody may wait for the end of a stream that a frozen process holds.
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>()
  let calls = 0
  const fail = (error: Error) => {
    ended()
    for (const { reject } of waiting.values()) reject(error)
    waiting.clear()
  }
  child.on('message', ({ id, value, error }: Answer) => {
    const call = waiting.get(id)
    if (error) call?.reject(error.code ? new TabibError(error.code, error.message, error) : revive(error))
    else call?.resolve(value)
  })
  child.on('error', (cause) => fail(unreachable('its process could not be started', cause)))
  child.on('exit', (code, signal) => fail(unreachable(`the module ended its process (${signal ?? code})`)))
  // It keeps nobody from ending but those who wait for it.
  child.unref()
  child.channel?.unref()
  const answer = async (id: number, what: string, limitMs: number): Promise<unknown> => {
    const answered = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }))
    child.channel?.ref()
    const timer = setTimeout(() => {
      fail(unreachable(`${what} within ${limitMs / 1_000} s`))
      child.kill('SIGKILL')
    }, limitMs)
    try {
      return await answered
    } finally {
      clearTimeout(timer)
      waiting.delete(id)
      if (waiting.size === 0) child.channel?.unref()
    }
  }
  const started = answer(STARTED, 'its process did not start', START_LIMIT_MS)

  return {
    async call(method, args, limitMs) {
      await started
      const id = ++calls
      const answered = answer(id, `no answer to ${method}`, limitMs)
      child.send({ id, method, args } satisfies Call, (error) => {
        if (error) fail(unreachable('its process is gone', error))
      })
      return answered
    },
    end() {
      if (waiting.size > 0) child.kill('SIGKILL')
      else if (child.connected) child.disconnect()
    },
  }
}

const revive = ({ message, stack }: NonNullable<Answer['error']>): Error =>
  Object.assign(new Error(message), { stack })

const unreachable = (why: string, cause?: unknown) =>
  new TabibError('KEY_STORE_UNREACHABLE', `the PKCS#11 token cannot be used: ${why}`, {
    cause,
    suggestions: ['tabib doctor', 'tabib status virtual-care/F13'],
  })
