-- Up Migration

-- Group roles hold the privileges; people and processes log in with roles of their own that are members of them.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['tabib_app', 'tabib_relay', 'tabib_auditor'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      begin
        execute format('create role %I nologin', wanted);
      exception
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
          raise exception 'role % does not exist and % may not create it', wanted, current_user
            using hint = format('as an administrator: create role %I nologin', wanted);
      end;
    end if;
  end loop;
end
$$;

create schema virtual_care;
create schema billing;
create schema communication;

grant usage on schema tabib to tabib_app, tabib_relay, tabib_auditor;
grant usage on schema virtual_care, billing, communication to tabib_app, tabib_relay, tabib_auditor;

-- RFC 9562 section 5.7: the time leads, so that ids made together lie together, and an id tells its day.
create function tabib.uuid_v7() returns uuid
language sql volatile parallel safe
as $$
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
        from 1 for 6),
      52, 1), 53, 1),
    'hex')::uuid
$$;

-- One service's outbox and inbox. The contract for producers and consumers in any language is docs/outbox.md.
create function tabib.create_mailboxes(schema_name text) returns void
language plpgsql
as $function$
begin
  execute format($sql$
    create table %1$I.outbox (
      seq bigint generated always as identity (cache 1),
      xid xid8 not null default pg_current_xact_id(),
      created_at timestamptz not null default now(),
      id uuid not null default tabib.uuid_v7(),
      tenant_id uuid not null,
      aggregate_type text not null,
      aggregate_id text not null,
      type text not null,
      data jsonb not null,
      headers jsonb,
      subject text,
      subject_id uuid,
      occurred_at timestamptz not null default now()
    ) partition by range (created_at);
    create table %1$I.outbox_default partition of %1$I.outbox default;
    create index outbox_seq on %1$I.outbox (seq);
    create index outbox_xid on %1$I.outbox (xid, seq);
    create index outbox_created_at on %1$I.outbox using brin (created_at) with (pages_per_range = 32);

    create table %1$I.inbox (
      consumer text not null,
      event_id text not null,
      tenant_id uuid,
      aggregate_type text,
      aggregate_id text,
      agg_seq bigint,
      handled_at timestamptz not null default now(),
      primary key (consumer, event_id)
    );
    create index inbox_aggregate on %1$I.inbox (consumer, aggregate_type, aggregate_id, agg_seq);
    create index inbox_handled_at on %1$I.inbox using brin (handled_at) with (pages_per_range = 32);

    alter table %1$I.outbox enable row level security;
    alter table %1$I.outbox force row level security;
    alter table %1$I.outbox_default enable row level security;
    alter table %1$I.outbox_default force row level security;
    alter table %1$I.inbox enable row level security;
    alter table %1$I.inbox force row level security;

    -- A producer that has said for which tenant it works can write for no other; one that serves them all says none.
    -- Not wrapped in a select, as a policy for scans would be: to set one up costs an insert of one row more than it saves.
    create policy outbox_insert on %1$I.outbox for insert to tabib_app
      with check (tenant_id = coalesce(nullif(current_setting('app.tenant_id', true), '')::uuid, tenant_id));
    create policy outbox_select on %1$I.outbox for select to tabib_app
      using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
    create policy outbox_relay on %1$I.outbox for select to tabib_relay using (true);
    create policy outbox_auditor on %1$I.outbox for select to tabib_auditor using (true);
    -- For maintain_outbox and reset_outbox: the owner must see every row before it drops a partition.
    create policy outbox_owner on %1$I.outbox to current_user using (true) with check (true);
    create policy outbox_owner on %1$I.outbox_default to current_user using (true) with check (true);
    create policy inbox_app on %1$I.inbox to tabib_app
      using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid))
      with check (
        tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        or (select nullif(current_setting('app.tenant_id', true), '')) is null);
    create policy inbox_relay on %1$I.inbox to tabib_relay using (true) with check (true);
    create policy inbox_auditor on %1$I.inbox for select to tabib_auditor using (true);

    -- seq, xid and created_at are the relay's order: nobody sets them.
    grant insert (id, tenant_id, aggregate_type, aggregate_id, type, data, headers, subject, subject_id, occurred_at)
      on %1$I.outbox to tabib_app;
    grant select on %1$I.outbox to tabib_app, tabib_relay;
    -- The auditor sees that an event is there, not what it says.
    grant select (seq, xid, created_at, id, tenant_id, aggregate_type, aggregate_id, type, subject, occurred_at)
      on %1$I.outbox to tabib_auditor;
    grant select, insert on %1$I.inbox to tabib_app;
    grant select, insert, delete on %1$I.inbox to tabib_relay;
    grant select on %1$I.inbox to tabib_auditor;
  $sql$, schema_name);
end
$function$;

select tabib.create_mailboxes(name) from unnest(array['virtual_care', 'billing', 'communication']) name;
drop function tabib.create_mailboxes;

-- Who relays a service's outbox. The epoch rises at every change of hands and fences whoever held it before.
create table tabib.outbox_lease (
  service text primary key,
  holder text,
  epoch bigint not null default 0,
  expires_at timestamptz not null default '-infinity',
  -- False while held, and after a holder that died: its successor then relays with care.
  released boolean not null default true,
  taken_at timestamptz
);
insert into tabib.outbox_lease (service) values ('virtual-care'), ('billing'), ('communication');

-- How far an outbox is published. Rows are appended, never updated: an updated row leaves a dead version for every
-- move, and a snapshot held for an hour would make each move walk all of them.
create table tabib.outbox_progress (
  service text not null,
  epoch bigint not null,
  n bigint not null,
  -- Rows visible in this snapshot are published.
  done pg_snapshot not null,
  -- The window under way: rows visible in it and not in `done`, published up to and including after_seq.
  target pg_snapshot,
  after_seq bigint not null default 0,
  -- The stream's sequence of the last acknowledged event.
  stream_seq bigint not null default 0,
  -- Of a mapped outbox without transaction ids: numbers below after_seq that were missing.
  gaps jsonb,
  -- A snapshot means nothing in another cluster: restored elsewhere, the relay refuses until `outbox reset`.
  system_identifier text not null,
  database_oid oid not null,
  at timestamptz not null default clock_timestamp(),
  primary key (service, epoch, n)
);

-- Written before events are touched by a relay whose predecessor died: an event that kills the process every time is
-- recognised by its attempts.
create table tabib.outbox_attempt (
  service text primary key,
  -- How many of the next events were being relayed together when this was written.
  suspects int not null,
  -- The first of them, once they are relayed one by one, and how often it was tried.
  event_id text,
  attempts int not null default 0,
  last_at timestamptz not null default now()
);

-- Pending and lag over time, so that "climbs" can be judged by a command that runs once.
create table tabib.outbox_sample (
  service text not null,
  at timestamptz not null default now(),
  pending bigint not null,
  lag_s double precision not null,
  primary key (service, at)
);

-- Everything that could not be published or handled, with the event itself: nothing is lost.
create table tabib.quarantine (
  id uuid primary key default tabib.uuid_v7(),
  service text not null,
  origin text not null check (origin in ('outbox', 'inbox')),
  consumer text not null default '',
  event_id text not null,
  -- Its place in the outbox, or in the stream it was read from.
  seq bigint,
  stream text,
  stream_seq bigint,
  -- Text: the tenants of a mapped outbox need not be UUIDs.
  tenant_id text,
  aggregate_type text,
  aggregate_id text,
  type text,
  subject text,
  occurred_at timestamptz,
  reason text not null,
  detail text,
  attempts int not null default 0,
  fingerprint text not null,
  headers jsonb,
  payload bytea not null,
  redacted jsonb,
  state text not null default 'open' check (state in ('open', 'held', 'redriving', 'redriven', 'discarded')),
  redrives int not null default 0,
  redrive_run uuid,
  -- When the copy of an inbox event reached the dead-letter stream; a sweep makes up for a crash before that.
  dead_lettered_at timestamptz,
  quarantined_at timestamptz not null default now(),
  resolved_at timestamptz,
  resolved_by text
);
create unique index quarantine_once on tabib.quarantine (service, origin, consumer, event_id)
  where state in ('open', 'held', 'redriving');
create index quarantine_aggregate on tabib.quarantine (service, origin, aggregate_type, aggregate_id, seq)
  where state in ('open', 'held', 'redriving');
create index quarantine_fingerprint on tabib.quarantine (fingerprint, quarantined_at);

-- How far a consumer's stream has been compared with its inbox.
create table tabib.inbox_sweep (
  service text not null,
  consumer text not null,
  stream_seq bigint not null default 0,
  at timestamptz not null default now(),
  primary key (service, consumer)
);

create table tabib.incident (
  id uuid primary key default tabib.uuid_v7(),
  dedupe_key text not null,
  severity text not null check (severity in ('page', 'ticket', 'info')),
  mode text not null,
  service text,
  title text not null,
  detail jsonb not null default '{}',
  runbook text,
  occurrences int not null default 1,
  state text not null default 'open' check (state in ('open', 'acked', 'resolved')),
  opened_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  acked_at timestamptz,
  acked_by text,
  resolved_at timestamptz,
  resolved_by text,
  resolution text,
  paged_at timestamptz,
  page_attempts int not null default 0,
  next_page_at timestamptz not null default now(),
  resolution_sent_at timestamptz
);
create unique index incident_once on tabib.incident (dedupe_key) where state <> 'resolved';
create index incident_state on tabib.incident (state, opened_at);

-- Append-only and hash-chained: each record's hash covers the hash before it.
create table tabib.audit (
  seq bigint primary key,
  ts timestamptz not null,
  run_id uuid not null,
  prev_hash bytea not null,
  hash bytea not null,
  record jsonb not null
);
create index audit_run on tabib.audit (run_id);
create function tabib.refuse_audit_change() returns trigger
language plpgsql
as $$
begin
  raise exception 'tabib.audit is append-only' using errcode = 'insufficient_privilege';
end
$$;
create trigger audit_append_only before update or delete on tabib.audit
  for each row execute function tabib.refuse_audit_change();
create trigger audit_no_truncate before truncate on tabib.audit
  for each statement execute function tabib.refuse_audit_change();

-- One severe operation at a time on a target.
create table tabib.operation_lock (
  target text primary key,
  run_id uuid not null,
  actor text not null,
  command text not null,
  taken_at timestamptz not null default now(),
  expires_at timestamptz not null
);

create table tabib.worker_heartbeat (
  name text not null,
  -- One running process: host, pid and start.
  instance text not null,
  host text not null,
  pid int not null,
  version text not null,
  -- Longest time between two beats before the worker counts as stopped.
  expected_every_s double precision not null,
  started_at timestamptz not null default now(),
  beat_at timestamptz not null default now(),
  pass_started_at timestamptz,
  last_pass_at timestamptz,
  next_pass_at timestamptz,
  last_result jsonb,
  last_error text,
  passes bigint not null default 0,
  failures bigint not null default 0,
  stopped_at timestamptz,
  primary key (name, instance)
);

-- One pass at a time on all hosts.
create table tabib.worker_lease (
  name text primary key,
  holder text not null,
  expires_at timestamptz not null
);

create table tabib.tenant (
  id uuid primary key,
  slug text not null unique,
  name text not null,
  region text not null,
  currency text not null,
  created_at timestamptz not null default now()
);

grant select on all tables in schema tabib to tabib_relay;
grant select on tabib.tenant to tabib_app;
grant select on tabib.outbox_lease, tabib.outbox_progress, tabib.outbox_attempt, tabib.outbox_sample, tabib.incident,
  tabib.audit, tabib.worker_heartbeat, tabib.worker_lease, tabib.tenant, tabib.inbox_sweep
  to tabib_auditor;
-- The auditor sees that an event is quarantined and why, not what it says.
grant select (id, service, origin, consumer, event_id, seq, stream, stream_seq, tenant_id, aggregate_type, aggregate_id,
  type, subject, reason, attempts, fingerprint, redacted, state, redrives, redrive_run, dead_lettered_at, quarantined_at,
  resolved_at, resolved_by) on tabib.quarantine to tabib_auditor;
grant insert, update on tabib.outbox_lease, tabib.quarantine, tabib.incident, tabib.worker_heartbeat,
  tabib.inbox_sweep to tabib_relay;
grant insert, update, delete on tabib.outbox_attempt, tabib.operation_lock, tabib.worker_lease, tabib.tenant
  to tabib_relay;
grant insert, delete on tabib.outbox_progress, tabib.outbox_sample to tabib_relay;
grant delete on tabib.worker_heartbeat to tabib_relay;
grant insert on tabib.audit to tabib_relay;

-- Makes the daily partitions from today to `days_ahead` and drops those that are older than `keep` and published
-- whole. Runs as the owner, since only an owner may create or drop a table; the worker may call it and nothing more.
create function tabib.maintain_outbox(schema_name text, keep interval, days_ahead int default 7)
returns table (created int, dropped int, in_default bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
  service_id text := replace(schema_name, '_', '-');
  day date;
  part record;
  done pg_snapshot;
  unpublished boolean;
begin
  if schema_name not in ('virtual_care', 'billing', 'communication') then
    raise exception 'no service has the schema %', schema_name;
  end if;
  created := 0;
  dropped := 0;
  -- Waiting for this lock would queue every producer behind us.
  set local lock_timeout = '500ms';
  for day in select generate_series((now() at time zone 'utc')::date, (now() at time zone 'utc')::date + days_ahead, '1 day')::date loop
    if to_regclass(format('%I.outbox_p%s', schema_name, to_char(day, 'YYYYMMDD'))) is not null then continue; end if;
    execute format('select exists (select from %I.outbox where created_at >= %L and created_at < %L)',
      schema_name, day::timestamp at time zone 'utc', (day + 1)::timestamp at time zone 'utc') into unpublished;
    -- Rows that already lie in the default partition keep their day there; the next day gets a partition again.
    if unpublished then continue; end if;
    execute format('create table %1$I.outbox_p%2$s partition of %1$I.outbox for values from (%3$L) to (%4$L)',
      schema_name, to_char(day, 'YYYYMMDD'), day::timestamp at time zone 'utc', (day + 1)::timestamp at time zone 'utc');
    execute format('alter table %1$I.outbox_p%2$s enable row level security', schema_name, to_char(day, 'YYYYMMDD'));
    execute format('alter table %1$I.outbox_p%2$s force row level security', schema_name, to_char(day, 'YYYYMMDD'));
    created := created + 1;
  end loop;

  -- A position of another cluster says nothing here, and nothing may be dropped by it.
  select p.done into done
  from (select * from tabib.outbox_progress where service = service_id order by epoch desc, n desc limit 1) p,
    pg_control_system() c, pg_database d
  where d.datname = current_database() and p.system_identifier = c.system_identifier::text and p.database_oid = d.oid;
  for part in
    select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') + 1 as upper_day
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = to_regclass(format('%I.outbox', schema_name)) and c.relname ~ '^outbox_p\d{8}$'
    order by c.relname
  loop
    exit when part.upper_day::timestamp at time zone 'utc' > now() - keep;
    if done is null then exit; end if;
    execute format(
      'select exists (select from %I.outbox where created_at >= %L and created_at < %L and not pg_visible_in_snapshot(xid, %L))',
      schema_name, (part.upper_day - 1)::timestamp at time zone 'utc', part.upper_day::timestamp at time zone 'utc', done)
      into unpublished;
    if unpublished then exit; end if;
    execute format('drop table %I.%I', schema_name, part.relname);
    dropped := dropped + 1;
  end loop;
  execute format('select count(*) from %I.outbox_default', schema_name) into in_default;
  return next;
end
$function$;
revoke all on function tabib.maintain_outbox from public;
grant execute on function tabib.maintain_outbox to tabib_relay;

-- Run by `outbox reset` alone: takes a restored outbox up again in this cluster's transaction ids. Rows for which
-- `republish_since` holds are published again, all others count as published.
create function tabib.reset_outbox(schema_name text, republish_since timestamptz)
returns table (done pg_snapshot, republished bigint, settled bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
  own xid8;
  seen pg_snapshot;
begin
  if schema_name not in ('virtual_care', 'billing', 'communication') then
    raise exception 'no service has the schema %', schema_name;
  end if;
  execute format('lock table %I.outbox in share row exclusive mode', schema_name);
  own := pg_current_xact_id();
  seen := pg_current_snapshot();
  -- Transaction ids of the old cluster mean nothing here: a settled row gets one that every snapshot sees.
  execute format('with changed as (update %I.outbox set xid = ''3'' where created_at < $1 and xid <> ''3'' returning 1)
    select count(*) from changed', schema_name) into settled using republish_since;
  execute format('with changed as (update %I.outbox set xid = $2 where created_at >= $1 returning 1)
    select count(*) from changed', schema_name) into republished using republish_since, own;
  -- Our own transaction, and any still open, count as not yet published.
  select format('%s:%s:%s', pg_snapshot_xmin(seen), pg_snapshot_xmax(seen),
      (select string_agg(x::text, ',' order by x)
       from (select x from pg_snapshot_xip(seen) x union select own where own < pg_snapshot_xmax(seen)) open_xids))::pg_snapshot
    into done;
  return next;
end
$function$;
revoke all on function tabib.reset_outbox from public;
grant execute on function tabib.reset_outbox to tabib_relay;

-- The platform's own tables, as far as the first consumers and the sandbox need them.
create table virtual_care.patient (
  id uuid primary key,
  tenant_id uuid not null references tabib.tenant (id),
  name text not null,
  language text not null,
  phone text,
  created_at timestamptz not null default now()
);
create table virtual_care.appointment (
  id uuid primary key,
  tenant_id uuid not null references tabib.tenant (id),
  patient_id uuid not null,
  starts_at timestamptz not null,
  status text not null
);
create table virtual_care.session (
  id uuid primary key,
  tenant_id uuid not null references tabib.tenant (id),
  appointment_id uuid,
  patient_id uuid not null,
  status text not null,
  version int not null default 1,
  started_at timestamptz,
  ended_at timestamptz
);
create table billing.charge (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  patient_id uuid not null,
  session_id uuid,
  -- The event that caused the charge: its second delivery must not charge twice.
  event_id text,
  amount_minor bigint not null check (amount_minor >= 0),
  currency text not null,
  code text not null,
  captured_at timestamptz not null default now()
);
create index charge_event on billing.charge (tenant_id, event_id);
create table communication.virtual_session (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  appointment_id uuid not null,
  patient_id uuid,
  event_id text,
  status text not null default 'scheduled',
  created_at timestamptz not null default now(),
  constraint virtual_session_once unique (tenant_id, appointment_id)
);
create table communication.message (
  id uuid primary key,
  tenant_id uuid not null references tabib.tenant (id),
  patient_id uuid not null,
  channel text not null,
  template text not null,
  status text not null,
  sent_at timestamptz
);

do $$
declare
  name text;
begin
  foreach name in array array['virtual_care.patient', 'virtual_care.appointment', 'virtual_care.session',
    'billing.charge', 'communication.virtual_session', 'communication.message'] loop
    execute format('alter table %s enable row level security', name);
    execute format('alter table %s force row level security', name);
    execute format('create policy tenant on %s to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy auditor on %s for select to tabib_auditor using (true)', name);
    execute format('grant select, insert, update on %s to tabib_app', name);
  end loop;
end
$$;
-- Counting doubled effects needs keys, never names, codes or amounts.
grant select (id, tenant_id, event_id, session_id, captured_at) on billing.charge to tabib_auditor;
grant select (id, tenant_id, appointment_id, event_id, created_at) on communication.virtual_session to tabib_auditor;
