-- Up Migration

-- An inbox entry is its tenant's: with the tenant in the key, no tenant learns of another's events by a refusal, nor keeps
-- them from being handled. The nil UUID stands for events that named no tenant, which nobody handles.
do $$
declare
  name text;
begin
  foreach name in array array['virtual_care', 'billing', 'communication'] loop
    execute format('update %I.inbox set tenant_id = ''00000000-0000-0000-0000-000000000000'' where tenant_id is null', name);
    execute format('alter table %I.inbox alter column tenant_id set not null', name);
    execute format('alter table %I.inbox drop constraint inbox_pkey', name);
    execute format('alter table %I.inbox add primary key (consumer, event_id, tenant_id)', name);
    execute format('drop policy inbox_app on %I.inbox', name);
    execute format('create policy inbox_app on %I.inbox to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
  end loop;
end
$$;

-- Whatever is granted on it later, a service never reads what is quarantined.
alter table tabib.quarantine enable row level security;
alter table tabib.quarantine force row level security;
create policy relay on tabib.quarantine to tabib_relay using (true) with check (true);
create policy auditor on tabib.quarantine for select to tabib_auditor using (true);
create policy owner on tabib.quarantine to current_user using (true) with check (true);

-- Who can be written to: a tenant's people, as communication knows them.
create table communication.contact (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  person_id uuid not null,
  unique (tenant_id, id),
  unique (tenant_id, person_id)
);
create table communication.thread (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  opened_at timestamptz not null default clock_timestamp(),
  unique (tenant_id, id)
);
-- Thread and contact are of one tenant by their keys, whatever the application believes.
create table communication.thread_participant (
  tenant_id uuid not null,
  thread_id uuid not null,
  contact_id uuid not null,
  added_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, thread_id, contact_id),
  constraint participant_thread foreign key (tenant_id, thread_id) references communication.thread (tenant_id, id),
  constraint participant_contact foreign key (tenant_id, contact_id) references communication.contact (tenant_id, id)
);
-- Somebody tried to add a participant whom the tenant does not have. Ids alone, as they were given.
create table communication.participant_refusal (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  thread_id uuid not null,
  contact_id uuid not null,
  refused_at timestamptz not null default clock_timestamp()
);
create index participant_refusal_at on communication.participant_refusal (refused_at);

do $$
declare
  name text;
begin
  foreach name in array array['contact', 'thread', 'thread_participant', 'participant_refusal'] loop
    execute format('alter table communication.%I enable row level security', name);
    execute format('alter table communication.%I force row level security', name);
    execute format('create policy tenant on communication.%I to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy auditor on communication.%I for select to tabib_auditor using (true)', name);
    execute format('grant select, insert on communication.%I to tabib_app', name);
    execute format('grant select on communication.%I to tabib_auditor', name);
  end loop;
end
$$;
