import type { Queryable } from '../../adapters/postgres/client.ts'
import type { SigningKey } from './phase.ts'

/** A verifier that was not heard from for so long is silent: it may be dead, or cut off and still verifying. */
const SILENT_AFTER_S = 30

/** What a verifier did since it started; a report that is lost or told twice changes nothing. */
export interface VerifierReport {
  /** Names this start of it: the counts of each begin at zero. */
  run: string
  accepted: number
  /** Tokens refused, by reason. */
  refused: Record<string, number>
  /** Tokens refused because their key was not held, by key id. */
  unknownKeys: Record<string, number>
}

/**
 * A verifier says which keys it holds and has proved (`jwksHash` of their ids), and how it fared.
 * @returns the hash that it should hold now; when it is another, the verifier must load again before it is ready.
 */
export async function attestKeys(
  db: Queryable,
  attestation: { purpose: string; instance: string; hash: string; stopped?: boolean } & VerifierReport,
): Promise<string> {
  const [answer] = await db.query<{ current: string }>(
    `with before as (
       select '' as kid, accepted as n from tabib.verifier where purpose = $1 and instance = $2 and run = $8
       union all
       select key, value::bigint from tabib.verifier, jsonb_each_text(unknown_keys)
       where purpose = $1 and instance = $2 and run = $8
     ), said as (
       insert into tabib.verifier
         (purpose, instance, jwks_hash, attested_at, stopped_at, accepted, refused, unknown_keys, run)
       values ($1, $2, $3, clock_timestamp(), case when $4 then clock_timestamp() end, $5, $6, $7, $8)
       on conflict (purpose, instance) do update set
         jwks_hash = excluded.jwks_hash, attested_at = excluded.attested_at, stopped_at = excluded.stopped_at,
         accepted = excluded.accepted, refused = excluded.refused, unknown_keys = excluded.unknown_keys,
         run = excluded.run
     ), now as (
       select '' as kid, $5::bigint as n
       union all
       select key, value::bigint from jsonb_each_text($7::jsonb)
       where exists (select from tabib.signing_key k where k.kid = key and k.purpose = $1)
     ), counted as (
       insert into tabib.verifier_count as seen (purpose, instance, minute, kid, n)
       select $1, $2, date_trunc('minute', clock_timestamp()), kid, grown
       from now left join before using (kid),
         lateral (select case when before.n <= now.n then now.n - before.n else now.n end) as g (grown)
       where grown > 0
       on conflict (purpose, instance, minute, kid) do update set n = seen.n + excluded.n
     )
     select tabib.jwks_hash($1) as current`,
    [
      attestation.purpose,
      attestation.instance,
      attestation.hash,
      attestation.stopped ?? false,
      attestation.accepted,
      JSON.stringify(attestation.refused),
      JSON.stringify(attestation.unknownKeys),
      attestation.run,
    ],
  )
  return answer!.current
}

/** One replica that verifies, as it last said. */
export interface VerifierOnRecord {
  instance: string
  /** `current`: holds and has proved every published key. */
  holds: 'current' | 'other'
  /** `live`, or `silent`: not heard from for half a minute, and it did not say that it was stopping. */
  state: 'live' | 'silent'
  heardS: number
  /** Since it started. */
  accepted: number
  refused: number
}

/** The verifiers of a purpose that have not stopped. */
export function listVerifiers(
  { db }: { db: Queryable },
  { purpose }: { purpose: string },
): Promise<VerifierOnRecord[]> {
  return db.query<VerifierOnRecord>(
    `select instance, case when jwks_hash = tabib.jwks_hash($1) then 'current' else 'other' end as holds,
            case when heard_s < $2 then 'live' else 'silent' end as state,
            heard_s as "heardS", accepted::float8 as accepted,
            (select coalesce(sum(value::int), 0)::float8 from jsonb_each_text(refused)) as refused
     from tabib.verifier, lateral (select extract(epoch from clock_timestamp() - attested_at)::float8 as heard_s) heard
     where purpose = $1 and stopped_at is null
     order by instance`,
    [purpose, SILENT_AFTER_S],
  )
}

/**
 * What a published key still waits for before it may sign; empty when nothing. A live verifier is waited for until it
 * holds the key. One that is silent, or that cannot attest at all, has fetched the key when its cache age is over.
 */
export async function activationWaits(db: Queryable, key: SigningKey): Promise<string[]> {
  const verifiers = await listVerifiers({ db }, key)
  const cachesLeftS = Math.ceil(key.cacheAgeS + key.skewS - (key.publishedS ?? 0))
  const behind = verifiers.filter(
    ({ holds, state }) => holds === 'other' && (state === 'live' || cachesLeftS > 0),
  )
  return [
    ...behind.map(({ instance, state }) => `${instance} (${state}) to attest the key set`),
    ...(key.allAttest || cachesLeftS <= 0
      ? []
      : [`${cachesLeftS} s for caches of verifiers that do not attest`]),
  ]
}

/** Forgets verifiers that were not heard from for a day, and what any counted before. */
export async function forgetVerifiers({ db }: { db: Queryable }): Promise<void> {
  await db.query(`delete from tabib.verifier where attested_at < clock_timestamp() - interval '1 day'`)
  await db.query(`delete from tabib.verifier_count where minute < clock_timestamp() - interval '1 day'`)
}
