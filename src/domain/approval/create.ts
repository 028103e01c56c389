import { randomUUID } from 'node:crypto'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { signJws } from '../keys/jws.ts'

/** Keeps an approval from passing for another kind of token (RFC 8725 section 3.11). */
export const APPROVAL_TYPE = 'tabib-approval+jws'

/** What an approval says. Times are seconds since 1970 (RFC 7519). */
export interface ApprovalClaims {
  jti: string
  /** The operator who approves. */
  iss: string
  planHash: string
  /** The context whose servers the plan was made against. */
  context: string
  reason: string
  iat: number
  exp: number
}

/**
 * Signs one operator's consent to one plan, with the key that is registered for them.
 * @throws TabibError NOT_AUTHORISED when the operator is not registered; NOT_FOUND when the store lacks their key.
 */
export async function createApproval(
  { db, keyStore }: { db: Queryable; keyStore: KeyStore },
  ask: { operator: string; planHash: string; context: string; reason: string; lifetimeMs: number },
): Promise<{ approval: string; claims: ApprovalClaims }> {
  const [known] = await db.query<{ kid: string; now: number }>(
    'select kid, floor(extract(epoch from clock_timestamp()))::float8 as now from tabib.operator where name = $1',
    [ask.operator],
  )
  if (known === undefined) {
    throw new TabibError('NOT_AUTHORISED', `${ask.operator} is no registered operator`, {
      suggestions: ['tabib operator list', `tabib operator add ${ask.operator}`],
    })
  }
  const claims: ApprovalClaims = {
    jti: randomUUID(),
    iss: ask.operator,
    planHash: ask.planHash,
    context: ask.context,
    reason: ask.reason,
    iat: known.now,
    exp: known.now + Math.floor(ask.lifetimeMs / 1_000),
  }
  const key = await keyStore.find(known.kid)
  return { approval: await signJws({ keyStore }, { key, typ: APPROVAL_TYPE, payload: claims }), claims }
}
