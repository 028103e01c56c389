import { decodeProtectedHeader } from 'jose'
import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Verifier } from '../keys/verifier.ts'
import { isRevoked, JOIN_TOKEN, JOINABLE, joinClaims, type Seat, sessionEnded } from './join-token.ts'
import type { Tally } from './tally.ts'
import { asTenant } from './tenant.ts'

/** Who was let in. */
export interface Admission extends Seat {
  role: string
  kid: string
}

/**
 * Lets in whoever holds a join token for the session, and records it. A token may be used again until it expires: who
 * lost the connection comes back with the same one.
 *
 * After a key's revocation nothing is accepted under it; see `isRevoked`.
 *
 * @throws TabibError TOKEN_EXPIRED; TOKEN_INVALID with the verifier's reasons, `claims` for another session, or
 * `not-issued`: the signature holds, and no such token was issued; SESSION_ENDED, KEYS_UNAVAILABLE.
 */
export async function admit(
  { tally, ...systems }: { db: Database; verifier: Verifier; tally: Tally },
  ask: { token: string; sessionId: string },
): Promise<Admission> {
  try {
    const admission = await verifyAndAccept(systems, ask)
    tally.count('accepted', admission.kid)
    return admission
  } catch (error) {
    const outcome = outcomeOf(error)
    if (outcome !== undefined) tally.count(outcome, ANYBODYS.includes(outcome) ? '' : keyIdOf(ask.token))
    throw error
  }
}

/** Refusals before a key was found: what the token says of its key is whatever its sender wrote. */
const ANYBODYS = ['malformed', 'unknown-key', 'unavailable']

function outcomeOf(error: unknown): string | undefined {
  if (!(error instanceof TabibError)) return undefined
  if (error.code === 'TOKEN_EXPIRED') return 'expired'
  if (error.code === 'KEYS_UNAVAILABLE') return 'unavailable'
  return error.code === 'TOKEN_INVALID' ? String(error.context.reason) : undefined
}

const keyIdOf = (token: string): string => decodeProtectedHeader(token).kid ?? ''

async function verifyAndAccept(
  { db, verifier }: { db: Database; verifier: Verifier },
  { token, sessionId }: { token: string; sessionId: string },
): Promise<Admission> {
  const { kid, claims: verified } = await verifier.verify(token, JOIN_TOKEN)
  const claims = joinClaims.safeParse(verified).data
  if (claims === undefined) throw refused('claims', 'the claims are not those of a join token')
  if (claims.session_id !== sessionId) throw refused('claims', 'the token opens another session')
  const { tenant_id: tenantId, sub: participantId, jti } = claims
  return asTenant(db, tenantId, async (tx) => {
    if (await isRevoked(tx, kid)) throw refused('revoked', 'the key that signed this was revoked')
    const named = [jti, sessionId, participantId, kid]
    const [admitted] = await accept(tx, named)
    if (admitted === undefined) throw await refusalOf(tx, named)
    return { tenantId, sessionId, participantId, role: admitted.role, kid }
  })
}

async function accept(tx: Transaction, named: string[]): Promise<{ role: string }[]> {
  try {
    return await tx.query<{ role: string }>(
      `update virtual_care.join_token t
       set acceptances = acceptances + 1, last_accepted_at = clock_timestamp(),
           first_accepted_at = coalesce(first_accepted_at, clock_timestamp())
       from virtual_care.session s, virtual_care.participant p
       where t.jti = $1 and t.session_id = $2 and t.participant_id = $3 and t.kid = $4 and t.revoked_at is null
         and s.id = t.session_id and s.status = any($5) and p.id = t.participant_id
       returning p.role`,
      [...named, JOINABLE],
    )
  } catch (cause) {
    if ((cause as { constraint?: string }).constraint !== 'join_token_in_time') throw cause
    throw new TabibError('TOKEN_EXPIRED', 'the time of the token has passed', { cause })
  }
}

async function refusalOf(tx: Transaction, named: string[]): Promise<TabibError> {
  const [issued] = await tx.query<{ status: string; revoked: boolean }>(
    `select s.status, t.revoked_at is not null as revoked
     from virtual_care.join_token t join virtual_care.session s on s.id = t.session_id
     where t.jti = $1 and t.session_id = $2 and t.participant_id = $3 and t.kid = $4`,
    named,
  )
  if (issued === undefined) return refused('not-issued', 'no such token was issued')
  if (issued.revoked) return refused('revoked', 'everybody was put out of the session')
  return sessionEnded(named[1]!, issued.status)
}

const refused = (reason: string, message: string) =>
  new TabibError('TOKEN_INVALID', message, { context: { reason } })
