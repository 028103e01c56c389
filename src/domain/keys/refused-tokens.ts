import type { Queryable } from '../../adapters/postgres/client.ts'

export interface RefusedTokens {
  /** Share of good tokens that were refused because a verifier did not hold their key; 0 when none was verified. */
  ratio: number
  /** Where, and of which key. */
  refused: { purpose: string; instance: string; kid: string; count: number }[]
}

/**
 * How verifiers fared by their last reports, if those are not older than a minute. Only tokens whose key is published
 * count: what names a key that never was is a forgery, and no reason to roll a rotation back.
 */
export async function refusedTokens({ db }: { db: Queryable }): Promise<RefusedTokens> {
  const rows = await db.query<{
    purpose: string
    instance: string
    accepted: number
    kid: string | null
    count: number
  }>(
    `select v.purpose, v.instance, v.accepted::float8 as accepted, k.kid, coalesce(n.value::int, 0) as count
     from tabib.verifier v
     left join lateral jsonb_each_text(v.unknown_keys) n on true
     left join tabib.signing_key k
       on k.kid = n.key and k.purpose = v.purpose and k.phase in ('publish', 'attest', 'activate', 'drain')
     where v.stopped_at is null and v.attested_at > clock_timestamp() - interval '1 min'`,
  )
  const refused = rows.flatMap(({ purpose, instance, kid, count }) =>
    kid === null ? [] : [{ purpose, instance, kid, count }],
  )
  const accepted = new Map(
    rows.map(({ purpose, instance, accepted }) => [`${purpose} ${instance}`, accepted]),
  )
  const sum = (counts: Iterable<number>) => [...counts].reduce((total, count) => total + count, 0)
  const refusals = sum(refused.map(({ count }) => count))
  return { ratio: refusals === 0 ? 0 : refusals / (refusals + sum(accepted.values())), refused }
}
