import { createHmac, randomUUID } from 'node:crypto'
import { open } from 'node:fs/promises'
import type { Fetch } from '../../../adapters/http/client.ts'
import type { TenantProbe } from '../check.ts'
import { ask, pooled } from './ask.ts'

const AT_ONCE = 32

/**
 * Sends the payment webhook a test event with a signature that holds, which must be accepted, and one with a signature
 * that does not, which must be refused. Signatures are those of Standard Webhooks (symmetric, v1).
 */
export const webhookProbe: TenantProbe<{ fetch(tenantId: string): Fetch }> = {
  id: 'tenant/webhook-signed-test',
  category: 'payment',
  severity: 'error',
  title: 'the webhook accepts a signed test and refuses a forged one',
  run: ({ fetch }, tenants) =>
    pooled(tenants, AT_ONCE, async ({ id, tenant: { slug, payment } }) => {
      const webhook = payment?.webhook
      if (webhook === undefined) return { notRun: 'there is no payment webhook' }
      const { url, secretRef } = webhook
      if (!secretRef.startsWith('file:')) return { notRun: `${secretRef} is no file that can be read here` }
      const file = secretRef.slice('file:'.length)
      const secret = await readSecret(file)
      if (typeof secret === 'string') {
        return {
          message: `${secretRef} ${secret}`,
          path: ['payment', 'webhook', 'secretRef'],
          evidence: { secretRef },
          fix: `openssl rand -base64 32 | sed s/^/whsec_/ > ${file}    # and the same to ${payment?.provider}`,
        }
      }
      const flaw = await flawOf(fetch(id), url, slug, secret.key)
      if (flaw === undefined) return undefined
      return {
        message: flaw,
        path: ['payment', 'webhook', 'url'],
        evidence: { url, secretRef },
        fix: `curl -i -X POST ${url}    # unsigned, so 4xx is the right answer`,
      }
    }),
}

async function flawOf(fetch: Fetch, url: string, slug: string, key: Buffer): Promise<string | undefined> {
  const signed = await send(fetch, url, slug, key)
  if (typeof signed === 'string') return `${url}: ${signed}`
  if (signed.status < 200 || signed.status > 299)
    return `${url} answers a signed test with HTTP ${signed.status}`
  const forged = await send(fetch, url, slug, Buffer.alloc(key.length))
  if (typeof forged === 'string') return `${url}: ${forged}`
  if (forged.status >= 400 && forged.status <= 499) return undefined
  return `${url} answers a forged test with HTTP ${forged.status}: it does not look at signatures`
}

function send(fetch: Fetch, url: string, slug: string, key: Buffer) {
  const id = `msg_${randomUUID()}`
  const timestamp = String(Math.floor(Date.now() / 1_000))
  const body = JSON.stringify({
    type: 'tabib.test',
    timestamp: new Date().toISOString(),
    data: { tenant: slug },
  })
  const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')
  return ask(fetch, url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': `v1,${signature}`,
    },
    body,
  })
}

/** 24 to 64 bytes as `whsec_` and base64; else what is wrong with the file. */
async function readSecret(path: string): Promise<{ key: Buffer } | string> {
  try {
    await using file = await open(path)
    // A device or a pipe would be read for ever.
    if (!(await file.stat()).isFile()) return 'is no file'
    const { buffer, bytesRead } = await file.read(Buffer.alloc(1_024), 0, 1_024, 0)
    const text = buffer.toString('utf8', 0, bytesRead).trim()
    const key = Buffer.from(text.replace(/^whsec_/, ''), 'base64')
    return key.length >= 24 && key.length <= 64 ? { key } : 'holds no secret of 24 to 64 bytes in base64'
  } catch (error) {
    return `cannot be read: ${(error as NodeJS.ErrnoException).code}`
  }
}
