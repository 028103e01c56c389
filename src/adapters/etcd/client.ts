import * as z from 'zod'
import { TabibError } from '../../errors.ts'
import type { Fetch } from '../http/client.ts'

export interface EtcdOptions {
  /** Client URLs of its members; any that answers will do. */
  urls: readonly string[]
  fetch: Fetch
  timeoutMs?: number
  /** `user:password`, where it wants a user. */
  credentials?: string | undefined
}

export interface Etcd {
  /**
   * Every key below a prefix with its value, as the majority has it.
   * @throws TabibError ETCD_UNREACHABLE when no member answered, or no majority stands behind those that do;
   * NOT_AUTHORISED where it wants a user, or refuses this one.
   */
  read(prefix: string): Promise<ReadonlyMap<string, string>>
  /** Sets a key for good. @throws TabibError ETCD_UNREACHABLE, NOT_AUTHORISED */
  put(key: string, value: string): Promise<void>
  /** Takes a key away, if it is there. @throws TabibError ETCD_UNREACHABLE, NOT_AUTHORISED */
  remove(key: string): Promise<void>
  /**
   * Makes a key that nobody holds; it goes when the claim is disposed, or `ttlS` after this process is gone. Where
   * somebody holds it, the claim says who, by the value of the key.
   * @throws TabibError ETCD_UNREACHABLE
   */
  claim(key: string, value: string, options: { ttlS: number }): Promise<Claim>
}

export type Claim = AsyncDisposable & ({ held: true } | { held: false; by: string })

const pairs = z.array(z.object({ key: z.string(), value: z.string().default('') })).default([])
const range = z.object({ kvs: pairs })
const session = z.object({ token: z.string() })
const lease = z.object({ ID: z.string() })
const transaction = z.object({
  succeeded: z.boolean().default(false),
  responses: z.array(z.object({ response_range: z.object({ kvs: pairs }).optional() })).default([]),
})

const encode = (text: string): string => Buffer.from(text).toString('base64')
const decode = (text: string): string => Buffer.from(text, 'base64').toString()

/** The only client of etcd: version 3's JSON gateway, as Patroni's `etcd3` uses it. */
export function openEtcd({ urls, fetch, timeoutMs = 2_000, credentials }: EtcdOptions): Etcd {
  let token: Promise<string> | undefined
  const post = async <T>(base: string, path: string, body: object, shape: z.ZodType<T>): Promise<T> => {
    const response = await fetch(`${base.replace(/\/+$/, '')}/v3/${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(timeoutMs),
      ...(path === 'auth/authenticate' || token === undefined
        ? {}
        : { headers: { authorization: await token } }),
    })
    const answer = (await response.json()) as { error?: string; message?: string }
    const words = answer.error ?? answer.message ?? `HTTP ${response.status}`
    if (
      /user name is empty|permission denied|auth token|authentication failed|authentication is not enabled/.test(
        words,
      )
    ) {
      throw new TabibError('NOT_AUTHORISED', `etcd at ${new URL(base).host} refused: ${words}`, {
        suggestions: [
          'set cluster.etcdCredentialsFile in tabib.yaml to a file with user:password',
          'docs/cluster.md',
        ],
      })
    }
    if (!response.ok) throw new Error(words)
    return shape.parse(answer)
  }
  // A token is good for minutes, a client for seconds.
  const authenticate = async (base: string, given: string): Promise<void> => {
    const [name = '', ...rest] = given.split(':')
    token ??= post(base, 'auth/authenticate', { name, password: rest.join(':') }, session).then(
      (answer) => answer.token,
    )
    await token.catch((error) => {
      token = undefined
      throw error
    })
  }
  const ask = async <T>(path: string, body: object, shape: z.ZodType<T>): Promise<T> => {
    const failures: string[] = []
    for (const url of urls) {
      try {
        if (credentials !== undefined) await authenticate(url, credentials)
        return await post(url, path, body, shape)
      } catch (error) {
        if (error instanceof TabibError) throw error
        failures.push(`${new URL(url).host}: ${reasonOf(error as Error, timeoutMs)}`)
      }
    }
    throw new TabibError('ETCD_UNREACHABLE', `etcd gave no answer: ${failures.join('; ')}`, {
      suggestions: [`etcdctl --endpoints ${urls.join(',')} endpoint status --cluster -w table`],
    })
  }
  return {
    async read(prefix) {
      // The end of a range of all keys with a prefix: the prefix with its last byte one higher.
      const end = Buffer.from(prefix)
      end[end.length - 1] = end.at(-1)! + 1
      const { kvs } = await ask('kv/range', { key: encode(prefix), range_end: end.toString('base64') }, range)
      return new Map(kvs.map(({ key, value }) => [decode(key), decode(value)]))
    },
    async put(key, value) {
      await ask('kv/put', { key: encode(key), value: encode(value) }, z.object({}))
    },
    async remove(key) {
      await ask('kv/deleterange', { key: encode(key) }, z.object({}))
    },
    async claim(key, value, { ttlS }) {
      const { ID } = await ask('lease/grant', { TTL: ttlS }, lease)
      const revoke = async () => {
        await ask('lease/revoke', { ID }, z.object({})).catch(() => {})
      }
      const { succeeded, responses } = await ask(
        'kv/txn',
        {
          compare: [{ key: encode(key), target: 'CREATE', create_revision: '0' }],
          success: [{ request_put: { key: encode(key), value: encode(value), lease: ID } }],
          failure: [{ request_range: { key: encode(key) } }],
        },
        transaction,
      )
      if (succeeded) {
        const renewing = setInterval(
          () => {
            ask('lease/keepalive', { ID }, z.object({})).catch(() => {})
          },
          (ttlS * 1_000) / 3,
        ).unref()
        return {
          held: true,
          async [Symbol.asyncDispose]() {
            clearInterval(renewing)
            await revoke()
          },
        }
      }
      await revoke()
      const [holder] = responses[0]?.response_range?.kvs ?? []
      return { held: false, by: holder ? decode(holder.value) : 'somebody', async [Symbol.asyncDispose]() {} }
    },
  }
}

function reasonOf(error: Error, timeoutMs: number): string {
  if (error.name === 'TimeoutError') return `no answer within ${timeoutMs} ms`
  if (error instanceof z.ZodError || error instanceof SyntaxError) return 'not etcd’s answer'
  const { cause } = error
  return cause instanceof Error ? cause.message || String((cause as { code?: string }).code) : error.message
}
