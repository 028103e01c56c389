import { afterAll, expect, inject, test } from 'vitest'
import { openNats } from '../../src/adapters/nats/client.ts'
import { publishedKeys } from '../../src/domain/keys/key-set.ts'
import { rotateKeys } from '../../src/domain/keys/rotate.ts'
import { signToken } from '../../src/domain/keys/sign.ts'
import { openVerifier } from '../../src/domain/keys/verifier.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'

const database = useDatabase()
const keys = useKeyStore()
const nats = openNats({ url: inject('natsUrl') })
afterAll(() => nats.close())
const policy = { overlapS: 1_200, cacheAgeS: 600, skewS: 30, tokenLifetimeS: 300, allAttest: true }
const systems = () => ({ db: database.db, nats, keyStore: async () => keys.store })

test('a token holds for its kind, issuer and audience alone', async () => {
  const purpose = 'kinds'
  const { kid } = await rotateKeys(systems(), { purpose, algorithm: 'EdDSA', policy, by: 'test' })
  const { token } = await signToken(
    { db: database.db, keyStore: keys.store },
    { purpose, typ: 'at+jwt', lifetimeS: 60, claims: { sub: 'a', iss: 'tabib', aud: 'billing' } },
  )
  await using verifier = await openVerifier({
    purpose,
    load: () => publishedKeys({ db: database.service }, { purpose }),
    attest: { db: database.service, instance: 'one' },
  })
  const expected = { typ: 'at+jwt', issuer: 'tabib', audience: 'billing' }
  expect(await verifier.verify(token, expected)).toMatchObject({ kid, claims: { sub: 'a' } })
  for (const other of [{ typ: 'JWT' }, { issuer: 'other' }, { audience: 'virtual-care' }]) {
    await expect(verifier.verify(token, { ...expected, ...other })).rejects.toMatchObject({
      code: 'TOKEN_INVALID',
      context: { reason: 'claims' },
    })
  }
  expect(verifier.lacks()).toEqual([])
})
