import type { Queryable } from '../../adapters/postgres/client.ts'
import type { StatementStore } from '../../adapters/statement-store/client.ts'

/**
 * Holds a tenant's statements against its ledger, the store and the outbox: each patient's account has one outcome, what is
 * on record lies in the store, and was announced once. An empty list means that they agree.
 */
export async function compareStatements(
  { db, store }: { db: Queryable; store: StatementStore },
  tenantId: string,
): Promise<string[]> {
  const rows = await db.query<{
    account: string
    state: string | null
    sha256: string | null
    key: string | null
    outcomes: number
    events: number
  }>(
    `select a.id as account, s.state, s.sha256, s.object_key as key, coalesce(s.outcomes, 0)::int as outcomes,
       (select count(*)::int from billing.outbox o
        where o.tenant_id = a.tenant_id and o.aggregate_type = 'statement' and o.aggregate_id = a.id::text
          and o.data ->> 'sha256' = s.sha256) as events
     from billing.account a left join lateral (
       select min(state) as state, min(sha256) as sha256, min(object_key) as object_key, count(*) as outcomes
       from billing.statement s where (s.tenant_id, s.account_id) = (a.tenant_id, a.id)) s on true
     where a.tenant_id = $1 and a.code like 'receivable:%' order by a.id`,
    [tenantId],
  )
  const wrong: string[] = []
  for (const { account, state, sha256, key, outcomes, events } of rows) {
    if (outcomes !== 1) wrong.push(`account ${account} has ${outcomes} outcomes`)
    else if (key === null) wrong.push(`account ${account} is ${state}`)
    else {
      const found = await store.find(key)
      if (found?.sha256 !== sha256) wrong.push(`account ${account}: what is stored is not what is on record`)
      if (events !== 1) wrong.push(`account ${account} was announced ${events} times`)
    }
  }
  return wrong
}
