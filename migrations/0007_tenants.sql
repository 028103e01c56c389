-- Up Migration

-- A tenant goes live once `tabib tenant check` passes. Until then it may lack what it needs, a currency among it.
alter table tabib.tenant
  add column status text not null default 'onboarding' check (status in ('onboarding', 'live')),
  alter column currency drop not null;
update tabib.tenant set status = 'live';

-- What a tenant has configured beyond what other tables own: the rest of `tabib schema tenant`.
create table tabib.tenant_profile (
  tenant_id uuid primary key references tabib.tenant (id),
  document jsonb not null default '{}' check (jsonb_typeof(document) = 'object'),
  updated_at timestamptz not null default now()
);

-- What is charged for.
create table billing.item (
  tenant_id uuid not null references tabib.tenant (id),
  code text not null,
  sellable boolean not null default true,
  tax_code text,
  primary key (tenant_id, code)
);
create table billing.price_list (
  tenant_id uuid not null references tabib.tenant (id),
  id uuid not null default tabib.uuid_v7(),
  name text not null,
  currency text not null,
  -- With its beginning, without its end: [from, to).
  effective tstzrange not null check (not lower_inf(effective) and lower_inc(effective) and not upper_inc(effective)),
  primary key (tenant_id, id),
  unique (tenant_id, name)
);
create table billing.price (
  tenant_id uuid not null,
  price_list_id uuid not null,
  item_code text not null,
  amount_minor bigint not null check (amount_minor >= 0),
  primary key (tenant_id, price_list_id, item_code),
  foreign key (tenant_id, price_list_id) references billing.price_list (tenant_id, id),
  foreign key (tenant_id, item_code) references billing.item (tenant_id, code)
);
create table billing.account (
  tenant_id uuid not null references tabib.tenant (id),
  id uuid not null default tabib.uuid_v7(),
  code text not null,
  currency text not null,
  -- What it stood at before its first entry.
  opening_minor bigint not null default 0,
  primary key (tenant_id, id),
  unique (tenant_id, code)
);

do $$
declare
  name text;
begin
  foreach name in array array['tabib.tenant_profile', 'billing.item', 'billing.price_list', 'billing.price',
    'billing.account'] loop
    execute format('alter table %s enable row level security', name);
    execute format('alter table %s force row level security', name);
    execute format('create policy tenant on %s to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy auditor on %s for select to tabib_auditor using (true)', name);
    execute format('grant select, insert, update on %s to tabib_app', name);
    execute format('grant select on %s to tabib_auditor', name);
  end loop;
end
$$;
-- A list that is not in effect yet may be taken back; an account with entries never is.
grant delete on billing.item, billing.price_list, billing.price to tabib_app;
