import type { Queryable } from '../../adapters/postgres/client.ts'

export interface ForeignParticipants {
  /** Attempts that were refused in the last 15 minutes, by tenants that made them. */
  refused: number
  tenants: string[]
  /** Participants whose contact is another tenant's: there is none while the keys stand. */
  present: number
}

/** How often a participant of another tenant was refused, and how many got in. */
export async function foreignParticipants({ db }: { db: Queryable }): Promise<ForeignParticipants> {
  const [row] = await db.query<ForeignParticipants>(
    `select count(*)::int as refused, coalesce(array_agg(distinct tenant_id::text), '{}') as tenants,
       (select count(*)::int from communication.thread_participant p join communication.contact c on c.id = p.contact_id
        where c.tenant_id <> p.tenant_id) as present
     from communication.participant_refusal where refused_at > now() - interval '15 minutes'`,
  )
  return row!
}
