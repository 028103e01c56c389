import type { Nats } from '../../adapters/nats/client.ts'

/** Core NATS subject on which verifiers of a purpose hear of changes. */
export const announcementSubject = (purpose: string): string => `tabib.keys.${purpose}`

/** What is announced: that the key set changed, and keys to refuse before it has been fetched again. */
export interface Announcement {
  revoked: string[]
}

/**
 * Tells verifiers to fetch the key set now, and which keys to refuse from this moment. Nothing depends on it: they
 * fetch by themselves all the time, so a NATS that is away or not configured is no error.
 */
export async function announceKeys(
  app: { readonly nats: Pick<Nats, 'notify' | 'ping'> },
  { purpose, revoked = [] }: { purpose: string; revoked?: string[] },
): Promise<{ announced: boolean }> {
  try {
    const announcement: Announcement = { revoked }
    await app.nats.notify(announcementSubject(purpose), Buffer.from(JSON.stringify(announcement)))
    // A process that ends takes with it what it has not sent yet.
    await app.nats.ping()
    return { announced: true }
  } catch {
    return { announced: false }
  }
}
