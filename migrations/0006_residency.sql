-- Up Migration

-- Where a tenant's data may be besides its own region (tabib.tenant.region).
create table tabib.tenant_region (
  tenant_id uuid not null references tabib.tenant (id),
  region text not null,
  primary key (tenant_id, region)
);
alter table tabib.tenant_region enable row level security;
alter table tabib.tenant_region force row level security;
create policy tenant on tabib.tenant_region to tabib_app
  using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy relay on tabib.tenant_region to tabib_relay using (true) with check (true);
create policy auditor on tabib.tenant_region for select to tabib_auditor using (true);

grant select on tabib.tenant_region to tabib_app, tabib_auditor;
grant select, insert, delete on tabib.tenant_region to tabib_relay;
