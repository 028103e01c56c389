import { compactVerify, importJWK, type JWK } from 'jose'
import type { Nats } from '../../adapters/nats/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'

/** Keeps a statement of revocation from passing for a token (RFC 8725 section 3.11). */
export const REVOCATION_TYPE = 'tabib-revocation+jws'

/** Where revocations are kept outside of the database, for good; what others put there counts for nothing. */
export const REVOCATION_STREAM = {
  name: 'tabib_revocations',
  subjects: ['tabib.revoked.*'],
  deny_delete: true,
  deny_purge: true,
}

type Remembering = Pick<Nats, 'store' | 'messages'>

/**
 * Puts a key's own statement that it is revoked where a restore of the database does not reach it; twice is once.
 * Nobody can say it in place of somebody who had the key, and in such hands it is to be revoked.
 */
export async function rememberRevocation(
  { db, nats }: { db: Queryable; nats: Remembering },
  { kid }: { kid: string },
): Promise<void> {
  const [key] = await db.query<{ revocation: string | null }>(
    'select revocation from tabib.signing_key where kid = $1',
    [kid],
  )
  if (!key?.revocation) return
  const payload = Buffer.from(key.revocation)
  await nats.store({ subject: `tabib.revoked.${kid}`, messageId: kid, headers: new Map(), payload })
}

/**
 * Holds memory and database against each other. `unrevoked`: remembered as revoked, and the database says nothing of the
 * kind: it was restored to a time before. `unremembered`: NATS was not there when they were revoked.
 * @throws TabibError NATS_UNREACHABLE
 */
export async function compareRevocations({ db, nats }: { db: Queryable; nats: Remembering }): Promise<{
  unrevoked: { kid: string; purpose: string }[]
  unremembered: string[]
}> {
  const said = new Map<string, string[]>()
  for await (const { subject, payload } of nats.messages(REVOCATION_STREAM.name, 0, { payloads: true })) {
    const kid = subject.split('.').at(-1)!
    said.set(kid, [...(said.get(kid) ?? []), Buffer.from(payload).toString()])
  }
  const known = await db.query<{ kid: string; purpose: string; publicJwk: JWK; revoked: boolean }>(
    `select kid, purpose, public_jwk as "publicJwk", phase = 'revoked' as revoked from tabib.signing_key
     where kid = any($1) and phase <> 'revoked' or phase = 'revoked' and revocation is not null`,
    [[...said.keys()]],
  )
  const judged = await Promise.all(
    known.map(async (key) => ({ ...key, remembered: await anyGenuine(said.get(key.kid) ?? [], key) })),
  )
  return {
    unrevoked: judged
      .filter(({ revoked, remembered }) => remembered && !revoked)
      .map(({ kid, purpose }) => ({ kid, purpose })),
    unremembered: judged.filter(({ revoked, remembered }) => revoked && !remembered).map(({ kid }) => kid),
  }
}

/** Whether one of these is the key's own word. */
async function anyGenuine(
  statements: readonly string[],
  { kid, publicJwk }: { kid: string; publicJwk: JWK },
): Promise<boolean> {
  const key = await importJWK(publicJwk)
  for (const statement of statements) {
    try {
      const { protectedHeader, payload } = await compactVerify(statement, key)
      const said = JSON.parse(Buffer.from(payload).toString())
      if (protectedHeader.typ === REVOCATION_TYPE && said.kid === kid) return true
    } catch {
      // Anybody may have put it there.
    }
  }
  return false
}
