-- Up Migration

-- One row a key. What it may do follows from its phase alone: published from `publish` to `drain`, signing in `activate`.
create table tabib.signing_key (
  -- RFC 7638 thumbprint of the public half.
  kid text primary key,
  purpose text not null check (purpose ~ '^[a-z][a-z0-9-]{0,39}$'),
  algorithm text not null check (algorithm in ('ES256', 'EdDSA', 'RS256')),
  -- What the key store calls it; the private half is there and nowhere else.
  ref text not null,
  public_jwk jsonb not null,
  -- Signed with it when it was made: who verifies this holds the right key and can use it.
  probe text not null,
  phase text not null
    check (phase in ('prepare', 'publish', 'attest', 'activate', 'drain', 'retire', 'revoked')),
  since timestamptz not null default clock_timestamp(),
  published_at timestamptz,
  -- Why it never signs again, although it may still be published.
  barred text check (barred in ('tainted', 'rolled-back')),
  -- The promises that its rotation was planned with; a later change of configuration does not shorten them.
  overlap_s int not null,
  cache_age_s int not null,
  skew_s int not null,
  token_lifetime_s int not null,
  all_attest boolean not null,
  destroyed_at timestamptz,
  check (overlap_s >= 600 and overlap_s >= cache_age_s + skew_s + token_lifetime_s)
);
-- At most one key of a purpose signs, and at most one is on its way there.
create unique index signing_key_active on tabib.signing_key (purpose) where phase = 'activate';
create unique index signing_key_candidate on tabib.signing_key (purpose)
  where phase in ('prepare', 'publish', 'attest');

-- Every phase that a key entered, and on whose behalf.
create table tabib.signing_key_phase (
  seq bigint generated always as identity primary key,
  kid text not null references tabib.signing_key (kid),
  phase text not null,
  entered_at timestamptz not null default clock_timestamp(),
  entered_by text not null
);
create index signing_key_phase_key on tabib.signing_key_phase (kid, seq);

-- The denylist. Written in the transaction that revokes, so that whoever must act on a revocation finds it here.
create table tabib.key_revocation (
  kid text primary key references tabib.signing_key (kid),
  purpose text not null,
  reason text not null,
  revoked_by text not null,
  run_id uuid not null,
  revoked_at timestamptz not null default clock_timestamp()
);

-- Replicas that verify tokens: which keys each holds and has proved, and how it fared since its last report.
create table tabib.verifier (
  purpose text not null,
  -- Stays the same when the process is started again in its place.
  instance text not null,
  jwks_hash text not null,
  attested_at timestamptz not null default clock_timestamp(),
  stopped_at timestamptz,
  accepted bigint not null default 0,
  -- Tokens refused, by reason, and those whose key was not held, by key id.
  refused jsonb not null default '{}',
  unknown_keys jsonb not null default '{}',
  primary key (purpose, instance)
);

-- Names a set of published keys: SHA-256 of their ids, sorted and joined by commas, in hex.
create function tabib.jwks_hash(of_purpose text) returns text
language sql stable
as $$
  select encode(sha256(convert_to(coalesce(string_agg(kid, ',' order by kid collate "C"), ''), 'UTF8')), 'hex')
  from tabib.signing_key
  where purpose = of_purpose and phase in ('publish', 'attest', 'activate', 'drain')
$$;

grant select on tabib.signing_key, tabib.signing_key_phase, tabib.key_revocation, tabib.verifier
  to tabib_relay, tabib_auditor;
grant insert, update on tabib.signing_key to tabib_relay;
grant insert on tabib.signing_key_phase, tabib.key_revocation to tabib_relay;
grant delete on tabib.verifier to tabib_relay;
-- A service reads the public half and says what it holds; it never learns where a private half lies.
grant select (kid, purpose, algorithm, public_jwk, probe, phase) on tabib.signing_key to tabib_app;
grant select (kid, purpose, revoked_at) on tabib.key_revocation to tabib_app;
grant select, insert, update on tabib.verifier to tabib_app;
