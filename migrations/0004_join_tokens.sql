-- Up Migration

-- What refers to a session names its tenant too, so that no row of one tenant can hang on a row of another.
alter table virtual_care.session add constraint session_of_tenant unique (tenant_id, id);

create table virtual_care.participant (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  session_id uuid not null,
  person_id uuid not null,
  role text not null check (role in ('patient', 'clinician', 'interpreter', 'companion')),
  added_at timestamptz not null default clock_timestamp(),
  foreign key (tenant_id, session_id) references virtual_care.session (tenant_id, id),
  unique (tenant_id, session_id, person_id),
  unique (tenant_id, session_id, id)
);

-- Every join token that was issued, and how often it opened its session. A token that is not here was forged.
create table virtual_care.join_token (
  jti uuid primary key,
  tenant_id uuid not null,
  session_id uuid not null,
  participant_id uuid not null,
  kid text not null references tabib.signing_key (kid),
  issued_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  acceptances int not null default 0,
  first_accepted_at timestamptz,
  last_accepted_at timestamptz,
  -- Its key, or that of another token of its session, was revoked.
  revoked_at timestamptz,
  foreign key (tenant_id, session_id, participant_id)
    references virtual_care.participant (tenant_id, session_id, id),
  -- By the database's clock, whatever that of the host that verified it says.
  constraint join_token_in_time check (last_accepted_at <= expires_at)
);
create index join_token_kid on virtual_care.join_token (kid);
create index join_token_session on virtual_care.join_token (tenant_id, session_id);

-- What became of join tokens, minute by minute. `kid` is '' where no published key is meant.
create table tabib.join_token_count (
  minute timestamptz not null,
  outcome text not null,
  kid text not null default '',
  n bigint not null,
  primary key (minute, outcome, kid)
);

do $$
declare
  name text;
begin
  foreach name in array array['virtual_care.participant', 'virtual_care.join_token'] loop
    execute format('alter table %s enable row level security', name);
    execute format('alter table %s force row level security', name);
    execute format('create policy tenant on %s to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy auditor on %s for select to tabib_auditor using (true)', name);
    execute format('grant select, insert on %s to tabib_app', name);
  end loop;
end
$$;
grant update (acceptances, first_accepted_at, last_accepted_at) on virtual_care.join_token to tabib_app;
grant select on virtual_care.join_token to tabib_auditor;
grant select (id, tenant_id, session_id, role) on virtual_care.participant to tabib_auditor;

-- Whoever revokes a key puts out everybody that it let in, of every tenant.
create policy relay on virtual_care.join_token to tabib_relay using (true) with check (true);
create policy relay on virtual_care.session to tabib_relay using (true) with check (true);
grant select, update (revoked_at) on virtual_care.join_token to tabib_relay;
grant select (id, tenant_id, status, version), update (version) on virtual_care.session to tabib_relay;
grant select, insert, update, delete on tabib.join_token_count to tabib_relay;
grant select on tabib.join_token_count to tabib_auditor;
