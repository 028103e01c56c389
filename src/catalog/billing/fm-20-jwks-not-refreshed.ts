import { setTimeout as delay } from 'node:timers/promises'
import { activateKey } from '../../domain/keys/phase.ts'
import { refusedTokens } from '../../domain/keys/refused-tokens.ts'
import { CANDIDATE, prepareKey, rotateKeys } from '../../domain/keys/rotate.ts'
import { signToken } from '../../domain/keys/sign.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

const purpose = 'service-token'

export default failureMode({
  id: 'billing/FM-20',
  kind: 'alert',
  title: 'Signing keys were rotated before verifiers had the new key',
  severity: 'page',
  detect: {
    metric: 'billing_auth_refused_ratio',
    measure: async (app) => {
      const { ratio, refused } = await refusedTokens(app)
      return { value: ratio, evidence: refused.length > 0 ? { refused } : {} }
    },
    fires: { above: 0.01 },
    says: (ratio) => `${(ratio * 100).toFixed(1)} % of good tokens are refused for want of their key`,
    for: '30s',
    entails: ['tabib/worker-stopped'],
  },
  mitigate: { command: ['keys', 'rollback', '--purpose', purpose, '--yes'] },
  drill: {
    // Nobody serves the key set any more, and somebody has the new key sign without waiting for the verifiers.
    inject: async (world) => {
      const ask = { purpose, by: 'rehearsal', ...world.app.config.keys }
      await rotateKeys(world.app, ask)
      await using issuer = await world.startWorkers(['key-rotation'])
      const keysUrl = await issuer.listening()
      const verifier = await world.startVerifier({ purpose, keysUrl, instance: 'replica-1' })
      const traffic = await sendTokens(world, await verifier.listening())
      issuer.signal('SIGKILL')
      await issuer.exited
      const kid = await prepareKey(world.app, ask)
      await world.db.transaction((tx) => activateKey(tx, { kid, purpose, from: CANDIDATE, by: ask.by }))
      return {
        async [Symbol.asyncDispose]() {
          await traffic[Symbol.asyncDispose]()
          await verifier[Symbol.asyncDispose]()
        },
      }
    },
    verify: async (world) => {
      const { refused } = await refusedTokens(world)
      return refused.map(({ instance, kid, count }) => `${instance} refused ${count} good tokens of ${kid}`)
    },
  },
})

/** Sends a fresh token every few milliseconds; resolves once one was accepted. */
async function sendTokens(world: World, url: string): Promise<AsyncDisposable> {
  const keyStore = await world.app.keyStore()
  let sending = true
  let accepted = () => {}
  const first = new Promise<void>((resolve) => {
    accepted = resolve
  })
  const traffic = (async () => {
    while (sending) {
      const { token } = await signToken(
        { db: world.db, keyStore },
        { purpose, typ: 'JWT', lifetimeS: 60, claims: {} },
      )
      const headers = { authorization: `Bearer ${token}` }
      const answer = await fetch(`${url}/api/v1/keys/${purpose}/verify`, { headers })
      if (answer.ok) accepted()
      await answer.arrayBuffer()
      await delay(10)
    }
  })()
  await Promise.race([first, traffic])
  return {
    async [Symbol.asyncDispose]() {
      sending = false
      await traffic
    },
  }
}
