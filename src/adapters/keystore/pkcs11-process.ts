import { TabibError } from '../../errors.ts'
import type { KeyStore } from './client.ts'
import { openModule } from './pkcs11-module.ts'

/** What `pkcs11.ts` asks for: first `open` with the store's options, then a method of the store. */
export interface Call {
  id: number
  method: 'open' | Exclude<keyof KeyStore, symbol>
  args: unknown[]
}

export interface Answer {
  /** The call's, or 0 for `I have started`. */
  id: number
  value?: unknown
  error?: Partial<Pick<TabibError, 'code' | 'suggestions' | 'context' | 'retryable'>> & {
    message: string
    stack?: string | undefined
  }
}

let store: KeyStore | undefined

process.on('message', async ({ id, method, args }: Call) => {
  try {
    let value: unknown
    if (method === 'open') store = await openModule(args[0] as Parameters<typeof openModule>[0])
    else value = await (store![method] as (...args: unknown[]) => Promise<unknown>)(...args)
    process.send?.({ id, value } satisfies Answer)
  } catch (error) {
    process.send?.({ id, error: describe(error as Error) } satisfies Answer)
  }
})
process.on('disconnect', async () => {
  await store?.[Symbol.asyncDispose]()
  process.exit()
})
// A terminal sends these to both; whoever asked for a signature still waits for it.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})
process.send?.({ id: 0 } satisfies Answer)

function describe(error: Error): NonNullable<Answer['error']> {
  const { message, stack } = error
  if (!(error instanceof TabibError)) return { message, stack }
  const { code, suggestions, context, retryable } = error
  return { code, message, suggestions, context, retryable }
}
