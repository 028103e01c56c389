import { randomUUID } from 'node:crypto'
import { decodeJwt } from 'jose'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Registry } from './operator.ts'
import { signAsOperator } from './prove.ts'

/** Keeps an approval from passing for another kind of token (RFC 8725 section 3.11). */
export const APPROVAL_TYPE = 'tabib-approval+jws'

/** The longest that an approval may be good for, in seconds. */
export const LONGEST_LIFETIME_S = 86_400

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
 * @throws TabibError OPERATOR_UNPROVED when the operator is not registered, or the store lacks their key.
 */
export async function createApproval(
  systems: Registry & { keyStore(): Promise<KeyStore> },
  ask: { operator: string; planHash: string; context: string; reason: string; lifetimeMs: number },
): Promise<{ approval: string; claims: ApprovalClaims }> {
  const { operator, planHash, context, reason, lifetimeMs } = ask
  const approval = await signAsOperator(systems, {
    operator,
    typ: APPROVAL_TYPE,
    claims: (iat) => ({
      jti: randomUUID(),
      planHash,
      context,
      reason,
      iat,
      exp: iat + Math.floor(lifetimeMs / 1_000),
    }),
  })
  return { approval, claims: decodeJwt(approval) as unknown as ApprovalClaims }
}
