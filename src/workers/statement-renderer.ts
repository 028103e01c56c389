import { type App, createApp, createLogger } from '../app.ts'
import { openFonts } from '../domain/statements/fonts.ts'
import { type HeldBatch, renderBatch } from '../domain/statements/render-batch.ts'
import type { FromRenderer, ToRenderer } from '../domain/statements/renderer.ts'
import { openStore } from '../domain/statements/store.ts'
import { TabibError } from '../errors.ts'
import { asTabibError } from '../render.ts'

// The process in which statements are rendered (domain/statements/renderer.ts). It is killed at any moment.
const fonts = openFonts()
let app: App | undefined
const stores = new Map<string, ReturnType<typeof openStore>>()

process.on('message', async (message: ToRenderer) => {
  if (message.kind === 'open') {
    app = createApp(message.config, { log: createLogger('silent'), maxConnections: 2 })
    return
  }
  say(await work(message.batch))
})
process.on('disconnect', () => process.exit())
// A terminal sends these to all; whoever started this ends it.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})

async function work(batch: HeldBatch): Promise<FromRenderer> {
  try {
    const { db } = app!
    const store = await storeFor(app!, batch.tenantId)
    await renderBatch({ db, store, fonts }, batch, (accountId) => say({ kind: 'at', accountId }))
    return { kind: 'done' }
  } catch (error) {
    const { code, message, suggestions } = asTabibError(error)
    // The words of an error that is not ours may quote a row.
    const words = error instanceof TabibError ? message : `${(error as Error).name} in the renderer`
    return { kind: 'stopped', error: { code, message: words, suggestions } }
  }
}

function storeFor(app: App, tenantId: string): ReturnType<typeof openStore> {
  const opening = stores.get(tenantId) ?? openStore(app, tenantId)
  stores.set(tenantId, opening)
  opening.catch(() => stores.delete(tenantId))
  return opening
}

function say(message: FromRenderer): void {
  process.send?.(message)
}
