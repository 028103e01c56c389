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
 * Relays until nothing is left or the signal, and gives the lease back.
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

async function untilEmpty(relay: Relay, service: Service, signal: AbortSignal): Promise<Relayed> {
  const total = { published: 0, quarantined: 0, held: 0 }
  for (let more = true; more && !signal.aborted; ) {
    const pass = await relay.pass()
    if (pass.kind === 'standby') return { kind: 'standby', holder: pass.holder }
    if (pass.kind === 'blocked') {
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
