import { setTimeout as delay } from 'node:timers/promises'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Service } from '../../service.ts'
import { openRelay, type Relay, type RelayOptions } from './relay.ts'

export type Relayed =
  | { kind: 'relayed'; published: number; quarantined: number; held: number }
  /** Another process holds the lease and relays. */
  | { kind: 'standby'; holder: string | null }

/**
 * Relays until nothing is left or the signal, and gives the lease back. A holder that died is waited out, for as long
 * as its lease lasts; one that lives renews it in time, and is left to its work.
 *
 * @throws TabibError NATS_UNREACHABLE, POSTGRES_UNREACHABLE, OUTBOX_RESTORED; what was published is recorded.
 */
export async function relayUntilEmpty(
  app: { db: Database; nats: Nats },
  options: RelayOptions,
  { signal }: { signal: AbortSignal },
): Promise<Relayed> {
  const relay = openRelay(app, options)
  try {
    return await untilEmpty(relay, options.source.service, signal)
  } finally {
    // A lease that cannot be given back runs out; what was thrown before says why.
    await Promise.resolve(relay[Symbol.asyncDispose]()).catch(() => {})
  }
}

const LEASE_POLL_MS = 500
// A cluster that has just healed elects its leaders once or twice more.
const PATIENCE_MS = 3_000
// Two looks at the same expiry differ by the time a statement takes; a renewal adds over a second.
const RENEWED_BY_MS = 500

async function untilEmpty(relay: Relay, service: Service, signal: AbortSignal): Promise<Relayed> {
  let expiresAt: number | undefined
  let blockedUntil: number | undefined
  const total = { published: 0, quarantined: 0, held: 0 }
  for (let more = true; more && !signal.aborted; ) {
    const pass = await relay.pass()
    if (pass.kind === 'standby') {
      const until = performance.now() + pass.expiresInMs
      if (expiresAt !== undefined && until > expiresAt + RENEWED_BY_MS) {
        return { kind: 'standby', holder: pass.holder }
      }
      expiresAt = until
      await delay(Math.min(LEASE_POLL_MS, pass.expiresInMs + 10), undefined, { signal }).catch(() => {})
      continue
    }
    if (pass.kind === 'relayed' || pass.published > 0) blockedUntil = undefined
    if (pass.kind === 'blocked') {
      blockedUntil ??= performance.now() + PATIENCE_MS
      if (performance.now() < blockedUntil) {
        total.published += pass.published
        await delay(LEASE_POLL_MS, undefined, { signal }).catch(() => {})
        continue
      }
      throw new TabibError(
        'NATS_UNREACHABLE',
        `${service}: ${pass.reason}; ${total.published + pass.published} events were published before`,
        {
          suggestions: ['tabib status billing/FM-02'],
          ref: 'runbooks/billing/fm-02-nats-unreachable.md',
        },
      )
    }
    total.published += pass.published
    total.quarantined += pass.quarantined
    total.held += pass.held
    more = pass.more
  }
  return { kind: 'relayed', ...total }
}
