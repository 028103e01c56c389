import { type CompactVerifyResult, compactVerify, decodeProtectedHeader, importJWK, type JWK } from 'jose'
import * as z from 'zod'
import { SIGNING_ALGORITHMS } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { APPROVAL_TYPE, type ApprovalClaims, LONGEST_LIFETIME_S } from './create.ts'
import { findOperator, type Registry, removalOf } from './operator.ts'

/** Seconds since 1970, as far as a Date goes. */
const moment = z.number().min(0).max(8.64e12)

const claimsSchema = z.object({
  jti: z.uuid(),
  iss: z.string().min(1),
  planHash: z.string().regex(/^[0-9a-f]{64}$/),
  context: z.string(),
  reason: z.string(),
  iat: moment,
  exp: moment,
})

/**
 * What an approval says, once its signature holds against the key and it is good for a day at most. Needs no server.
 * Whether its time has passed, and whether it was used, is the caller's to judge.
 * @throws TabibError APPROVAL_INVALID
 */
export async function verifyApproval(approval: string, publicJwk: JWK): Promise<ApprovalClaims> {
  let verified: CompactVerifyResult
  try {
    const key = await importJWK(publicJwk)
    verified = await compactVerify(approval.trim(), key, { algorithms: [...SIGNING_ALGORITHMS] })
  } catch (cause) {
    throw invalid('its signature does not hold', cause)
  }
  if (verified.protectedHeader.typ !== APPROVAL_TYPE)
    throw invalid(`it is a "${verified.protectedHeader.typ}"`)
  const claims = claimsSchema.safeParse(parseJson(verified.payload))
  if (!claims.success) throw invalid('its claims are not those of an approval', claims.error)
  assertLifetime(claims.data, claims.data.iat)
  return claims.data
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    return undefined
  }
}

/** Who signs says when that was; what counts is when it is used. */
function assertLifetime({ iat, exp }: ApprovalClaims, now: number): void {
  if (exp - Math.min(iat, now) <= LONGEST_LIFETIME_S) return
  throw invalid(`it would be good until ${new Date(exp * 1_000).toISOString()}, and a day is the longest`)
}

/** What an approval is to open. */
interface Opening {
  approval: string
  planHash: string
  context: string
  /** Whom `proveActor` has proved. */
  actor: string
}

/**
 * Takes an approval for one operation: one that `judgeApproval` lets pass and that was never used before. Afterwards it
 * is used up, even if the operation fails.
 * @returns the operator who approved.
 * @throws TabibError APPROVAL_INVALID, saying what does not hold.
 */
export async function acceptApproval(
  { db }: { db: Queryable },
  { runId, ...operation }: Opening & { runId: string },
): Promise<string> {
  const claims = await judgeApproval({ db }, operation)
  if (await useApproval({ db }, claims, { runId, actor: operation.actor })) return claims.iss
  throw invalid('it was used before')
}

/** @throws TabibError APPROVAL_INVALID when the database knows that the approval was used; reads only. */
export async function assertUnused({ db }: { db: Queryable }, { jti }: ApprovalClaims): Promise<void> {
  const used = await db.query('select from tabib.approval_use where jti = $1', [jti])
  if (used.length > 0) throw invalid('it was used before')
}

/** Notes that an approval was used; false when it was before. */
export async function useApproval(
  { db }: { db: Queryable },
  { jti, planHash, iss }: ApprovalClaims,
  { runId, actor }: { runId: string; actor: string },
): Promise<boolean> {
  const used = await db.query(
    `insert into tabib.approval_use (jti, plan_hash, approver, actor, run_id) values ($1, $2, $3, $4, $5)
     on conflict do nothing returning jti`,
    [jti, planHash, iss, actor, runId],
  )
  return used.length > 0
}

/**
 * What an approval says that holds for one operation: signed by another who is an operator then than the one who acts,
 * for this plan and context, within its time. Whether it was used before is the caller's to judge.
 * @param at When it is to open something, in seconds since 1970: now by the registry's clock, when left out.
 * @throws TabibError APPROVAL_INVALID, saying which of these does not hold.
 */
export async function judgeApproval(
  registry: Registry,
  { approval, ...operation }: Opening,
  at?: number,
): Promise<ApprovalClaims> {
  const signer = await findOperator(registry, { kid: keyIdOf(approval) })
  if (signer === undefined) throw invalid('no registered operator has the key that signed it')
  const claims = await verifyApproval(approval, signer.publicJwk)
  if (claims.iss !== signer.name) throw invalid(`it names ${claims.iss}, and ${signer.name} signed it`)
  if (signer.name === operation.actor) throw invalid(`${signer.name} may not approve their own operation`)
  if (claims.planHash !== operation.planHash) {
    throw invalid(`it is for plan ${claims.planHash}, and this is plan ${operation.planHash}`)
  }
  if (claims.context !== operation.context) {
    throw invalid(`it is for the context "${claims.context}", and this is "${operation.context}"`)
  }
  const removal = removalOf(signer, at)
  if (removal !== undefined) throw invalid(removal)
  const now = at ?? signer.nowS
  if (now >= claims.exp) throw invalid(`its time ended at ${new Date(claims.exp * 1_000).toISOString()}`)
  assertLifetime(claims, now)
  return claims
}

function keyIdOf(approval: string): string {
  try {
    return decodeProtectedHeader(approval.trim()).kid ?? ''
  } catch (cause) {
    throw invalid('it is no JWS', cause)
  }
}

const invalid = (why: string, cause?: unknown) =>
  new TabibError('APPROVAL_INVALID', `the approval is refused: ${why}`, {
    suggestions: ['tabib approval create <plan hash> --file approval.jws    # by another operator'],
    cause,
  })
