import { compactVerify, importJWK } from 'jose'
import type { KeyStore } from '../../../adapters/keystore/client.ts'
import { TabibError } from '../../../errors.ts'
import { signJws } from '../../keys/jws.ts'
import type { TenantProbe } from '../check.ts'
import { pooled } from './ask.ts'

const AT_ONCE = 8

/** Has the tenant's key sign in the key store, and verifies that with its public half. */
export const kmsProbe: TenantProbe<{ keyStore: (() => Promise<KeyStore>) | undefined }> = {
  id: 'tenant/kms-signs',
  category: 'residency',
  severity: 'critical',
  title: 'the KMS key signs',
  async run({ keyStore: open }, tenants) {
    if (open === undefined) return tenants.map(() => ({ notRun: 'no key store is configured' }))
    const keyStore = await open()
    // One key may serve many tenants, and a key management service counts calls.
    const refs = [...new Set(tenants.flatMap(({ tenant }) => tenant.keys.kms?.ref ?? []))]
    const flaws = new Map(
      await pooled(refs, AT_ONCE, async (ref) => [ref, await flawOf(keyStore, ref)] as const),
    )
    return tenants.map(({ tenant }) => {
      const ref = tenant.keys.kms?.ref
      if (ref === undefined) return { notRun: 'there is no KMS key' }
      const flaw = flaws.get(ref)
      if (flaw === undefined) return undefined
      const fix = { set: '<key>', note: 'one that the key store has' }
      return { message: flaw, path: ['keys', 'kms', 'ref'], evidence: { ref }, fix }
    })
  },
}

async function flawOf(keyStore: KeyStore, ref: string): Promise<string | undefined> {
  try {
    const key = await keyStore.find(ref)
    const token = await signJws({ keyStore }, { key, typ: 'tenant-check', payload: { ref } })
    await compactVerify(token, await importJWK(key.publicJwk), { algorithms: [key.algorithm] })
    return undefined
  } catch (error) {
    if (error instanceof TabibError) return error.message
    return `its signature does not hold: ${(error as Error).message}`
  }
}
