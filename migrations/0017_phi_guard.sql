-- Up Migration

-- What may be sent: text with places for typed variables, and no other. A version never changes; only its state does.
create table communication.template (
  id text not null,
  version int not null check (version > 0),
  channel text not null check (channel in ('sms', 'push', 'email')),
  -- What is halted together: `reminders`, `results`, `billing` …
  category text not null,
  -- Of a push or an e-mail.
  subject text,
  body text not null,
  -- Type by name (src/domain/messaging/variables.ts).
  variables jsonb not null default '{}',
  state text not null default 'current' check (state in ('current', 'superseded', 'retired')),
  published_at timestamptz not null default clock_timestamp(),
  published_by text not null,
  retired_at timestamptz,
  -- The incident for which it was taken out of use.
  retired_for uuid references tabib.incident (id),
  primary key (id, version),
  check ((state = 'retired') = (retired_at is not null))
);
create unique index template_current on communication.template (id) where state = 'current';
grant select on communication.template to tabib_app, tabib_auditor, tabib_relay;
grant insert on communication.template to tabib_relay;
grant update (state, retired_at, retired_for) on communication.template to tabib_relay;

-- Patient data where it must not be: what was found and where, never what it said.
create table communication.phi_finding (
  tenant_id uuid not null references tabib.tenant (id),
  id uuid not null default tabib.uuid_v7(),
  source text not null check (source in ('pre-send', 'dispatch-log', 'log')),
  -- An attempt's id, or a file and a byte in it: a place is one finding, however often it is read.
  place text not null,
  channel text,
  category text not null,
  template text,
  template_version int,
  -- What kinds of identifier, and in which of the template's variables or of the row's members.
  evidence jsonb not null default '{}',
  found_at timestamptz not null default clock_timestamp(),
  incident_id uuid references tabib.incident (id),
  primary key (tenant_id, id),
  unique (tenant_id, source, place)
);
create index phi_finding_open on communication.phi_finding (found_at) where incident_id is null;

-- A tenant's messages of a category that are not sent, until somebody resumes them.
create table communication.category_halt (
  tenant_id uuid not null references tabib.tenant (id),
  category text not null,
  halted_at timestamptz not null default clock_timestamp(),
  resumed_at timestamptz,
  resumed_by text,
  primary key (tenant_id, category, halted_at),
  check ((resumed_at is null) = (resumed_by is null))
);
create unique index category_halt_now on communication.category_halt (tenant_id, category) where resumed_at is null;

do $$
declare
  name text;
begin
  foreach name in array array['phi_finding', 'category_halt'] loop
    execute format('alter table communication.%I enable row level security', name);
    execute format('alter table communication.%I force row level security', name);
    execute format('create policy tenant on communication.%I to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy relay on communication.%I to tabib_relay using (true) with check (true)', name);
    execute format('create policy auditor on communication.%I for select to tabib_auditor using (true)', name);
    execute format('grant select on communication.%I to tabib_app, tabib_relay, tabib_auditor', name);
  end loop;
end
$$;
-- Whoever sends may halt; to resume is an operator's.
grant insert (tenant_id, source, place, channel, category, template, template_version, evidence)
  on communication.phi_finding to tabib_app, tabib_relay;
grant update (incident_id) on communication.phi_finding to tabib_relay;
grant insert (tenant_id, category) on communication.category_halt to tabib_app, tabib_relay;
grant update (resumed_at, resumed_by) on communication.category_halt to tabib_relay;

-- By what template an attempt was made, and whether it was read for patient data since.
alter table communication.dispatch_log
  add column category text,
  add column template text,
  add column template_version int,
  add column scanned_at timestamptz;
create index dispatch_log_unscanned on communication.dispatch_log (attempted_at) where scanned_at is null;
create policy relay on communication.dispatch_log to tabib_relay using (true) with check (true);
grant select, update (scanned_at) on communication.dispatch_log to tabib_relay;

-- How far a log file has been read for patient data.
create table communication.log_mark (
  path text primary key,
  inode bigint not null,
  -- Bytes.
  read_to bigint not null,
  read_at timestamptz not null default clock_timestamp()
);
grant select, insert, update on communication.log_mark to tabib_relay;
