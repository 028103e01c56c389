-- Up Migration

alter table tabib.signing_key
  -- Which store holds the private half; null for keys that were made before this was kept.
  add column store text,
  -- By which the key itself says that it is revoked, signed when it was made; see domain/keys/remember.ts.
  add column revocation text;

-- Names one start of a verifier: what it counts begins at zero with each.
alter table tabib.verifier add column run uuid;

-- What verifiers counted, minute by minute, so that a burst is seen however seldom somebody looks. `kid` is '' for
-- tokens that were accepted, else the published key that was not held.
create table tabib.verifier_count (
  purpose text not null,
  instance text not null,
  minute timestamptz not null,
  kid text not null,
  n bigint not null,
  primary key (purpose, instance, minute, kid)
);
grant select, insert, update on tabib.verifier_count to tabib_app;
grant select, delete on tabib.verifier_count to tabib_relay;
grant select on tabib.verifier_count to tabib_auditor;

-- Whoever revokes a key puts out whom it let in: reads and ends tokens and sessions of every tenant, and makes none.
drop policy relay on virtual_care.join_token;
drop policy relay on virtual_care.session;
create policy relay_reads on virtual_care.join_token for select to tabib_relay using (true);
create policy relay_ends on virtual_care.join_token for update to tabib_relay
  using (revoked_at is null) with check (revoked_at is not null);
create policy relay_forgets on virtual_care.join_token for delete to tabib_relay
  using (expires_at < now() - interval '90 days');
create policy relay_reads on virtual_care.session for select to tabib_relay using (true);
create policy relay_ends on virtual_care.session for update to tabib_relay using (true) with check (true);
grant delete on virtual_care.join_token to tabib_relay;
create index join_token_expiry on virtual_care.join_token (expires_at);
