import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { Page } from '../../adapters/pager/client.ts'

export interface Phone extends AsyncDisposable {
  /** The webhook that takes pages. */
  readonly url: string
  /** What rang, in order: a page that is delivered again under the same key rings no second time. */
  readonly pages: readonly Page[]
}

/** Whoever is on call: takes pages by webhook, as `adapters/pager` sends them, and sees to each that fires. */
export async function startPhone(answer: (page: Page) => Promise<void>): Promise<Phone> {
  const pages: Page[] = []
  const known = new Set<string>()
  const answers: Promise<void>[] = []
  const server = createServer(async (request, response) => {
    const page = JSON.parse(await text(request)) as Page & { status: 'firing' | 'resolved' }
    const key = String(request.headers['idempotency-key'])
    response.end()
    if (page.status === 'resolved' || known.has(key)) return
    known.add(key)
    pages.push(page)
    answers.push(answer(page))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    pages,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await Promise.allSettled(answers)
    },
  }
}
