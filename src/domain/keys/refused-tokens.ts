import type { Queryable } from '../../adapters/postgres/client.ts'

/** This minute and those before it: longer than anybody waits between two looks. */
const MINUTES = 2

export interface RefusedTokens {
  /** Share of good tokens that were refused because a verifier did not hold their key; 0 when none was verified. */
  ratio: number
  /** Where, and of which key. */
  refused: { purpose: string; instance: string; kid: string; count: number }[]
}

/**
 * How verifiers fared in the last one to two minutes. Only tokens whose key is published count: what names a key that
 * never was is a forgery, and no reason to roll a rotation back. Those of a key that was rolled back count no more: it
 * signs nothing, and there is nothing left to do.
 */
export async function refusedTokens({ db }: { db: Queryable }): Promise<RefusedTokens> {
  const rows = await db.query<{ purpose: string; instance: string; kid: string; count: number }>(
    `select c.purpose, instance, c.kid, sum(n)::float8 as count
     from tabib.verifier_count c
     left join tabib.signing_key k using (kid)
     where minute >= date_trunc('minute', clock_timestamp()) - make_interval(mins => $1 - 1)
       and (c.kid = ''
            or k.phase in ('publish', 'attest', 'activate', 'drain') and k.barred is distinct from 'rolled-back')
     group by c.purpose, instance, c.kid order by c.purpose, instance, c.kid`,
    [MINUTES],
  )
  const refused = rows.filter(({ kid }) => kid !== '')
  const sum = (counted: typeof rows) => counted.reduce((total, { count }) => total + count, 0)
  return { ratio: refused.length === 0 ? 0 : sum(refused) / sum(rows), refused }
}
