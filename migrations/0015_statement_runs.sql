-- Up Migration

-- Statement runs (docs/statements.md): what a run is, how it is cut into batches, and what became of each account. All of it
-- is here: Redis only says that there is something to do.
create table billing.statement_run (
  tenant_id uuid not null references tabib.tenant (id),
  id uuid not null default tabib.uuid_v7(),
  -- A month of the Gregorian calendar in the tenant's time zone, [starts_at, ends_at).
  period text not null check (period ~ '^\d{4}-(0[1-9]|1[0-2])$' and period >= '2000-01'),
  time_zone text not null,
  starts_at timestamptz not null,
  ends_at timestamptz not null check (ends_at > starts_at),
  batch_size int not null check (batch_size between 1 and 10000),
  -- What was posted before ends_at is all there once no transaction older than this one is open.
  xid xid8 not null default pg_current_xact_id(),
  started_at timestamptz not null default clock_timestamp(),
  -- Since when its accounts and batches are on record.
  laid_out_at timestamptz,
  finished_at timestamptz,
  primary key (tenant_id, id),
  unique (tenant_id, period)
);
create unique index statement_run_id on billing.statement_run (id);
create index statement_run_open on billing.statement_run (started_at) where finished_at is null;

create table billing.statement_batch (
  tenant_id uuid not null,
  run_id uuid not null,
  n int not null check (n > 0),
  state text not null default 'queued' check (state in ('queued', 'running', 'done')),
  queued_at timestamptz not null default clock_timestamp(),
  -- Who works on it, and until when nobody else may.
  holder text,
  expires_at timestamptz,
  -- The batch that it was part of until the renderer died on one of its accounts.
  split_of int,
  primary key (tenant_id, run_id, n),
  foreign key (tenant_id, run_id) references billing.statement_run (tenant_id, id),
  check ((state = 'running') = (holder is not null) and (holder is null) = (expires_at is null))
);
create index statement_batch_open on billing.statement_batch (run_id, n) where state <> 'done';

create table billing.statement (
  tenant_id uuid not null,
  run_id uuid not null,
  account_id uuid not null,
  -- Its place in the run, which its number is made of.
  n int not null check (n > 0),
  batch int not null,
  state text not null default 'pending' check (state in ('pending', 'rendered', 'basic', 'failed', 'erased')),
  -- How often rendering was begun, and how often it is known to have failed.
  attempts int not null default 0,
  failures int not null default 0,
  -- Rendering is under way since, or was when its process died.
  began_at timestamptz,
  -- Why it last failed: a code, and words without personal data.
  reason text,
  detail text,
  -- Of the PDF.
  sha256 text check (sha256 ~ '^[0-9a-f]{64}$'),
  pages int,
  bytes bigint,
  object_key text,
  settled_at timestamptz,
  primary key (tenant_id, run_id, account_id),
  unique (tenant_id, run_id, n),
  foreign key (tenant_id, run_id, batch) references billing.statement_batch (tenant_id, run_id, n),
  foreign key (tenant_id, account_id) references billing.account (tenant_id, id),
  check ((state = 'pending') = (settled_at is null)),
  check (state not in ('rendered', 'basic') or (sha256, pages, bytes, object_key) is not null),
  check (state <> 'failed' or reason is not null)
);
create index statement_pending on billing.statement (tenant_id, run_id, batch) where state = 'pending';
create index statement_out_of_memory on billing.statement (account_id) where reason = 'MEMORY' and state in ('pending', 'failed');
create index statement_account on billing.statement (tenant_id, account_id);

-- Renderers that died: of memory, of a time limit, of an error that ends a process.
create table billing.statement_renderer_death (
  tenant_id uuid not null,
  run_id uuid not null,
  -- What it was rendering.
  account_id uuid not null,
  cause text not null check (cause in ('memory', 'timeout', 'crash')),
  -- The most that was seen before it ended.
  rss_mib int,
  died_at timestamptz not null default clock_timestamp(),
  foreign key (tenant_id, run_id, account_id) references billing.statement (tenant_id, run_id, account_id)
);
create index statement_renderer_death_account on billing.statement_renderer_death (tenant_id, run_id, account_id);

do $$
declare
  name text;
begin
  foreach name in array array['statement_run', 'statement_batch', 'statement', 'statement_renderer_death'] loop
    execute format('alter table billing.%I enable row level security', name);
    execute format('alter table billing.%I force row level security', name);
    -- Services show statements and make none: they may select.
    execute format('create policy tenant on billing.%I to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy relay on billing.%I to tabib_relay using (true) with check (true)', name);
    execute format('create policy auditor on billing.%I for select to tabib_auditor using (true)', name);
    execute format('grant select on billing.%I to tabib_app, tabib_relay, tabib_auditor', name);
  end loop;
end
$$;
grant insert (tenant_id, period, time_zone, starts_at, ends_at, batch_size), update (laid_out_at, finished_at)
  on billing.statement_run to tabib_relay;
grant insert, update on billing.statement_batch, billing.statement to tabib_relay;
grant insert on billing.statement_renderer_death to tabib_relay;
