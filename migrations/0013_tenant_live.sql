-- Up Migration

-- Where nobody can be charged nobody goes live. Not validated: a tenant from before is for billing/FM-13 to find, and must
-- not keep this migration from the others.
alter table tabib.tenant
  add constraint live_has_currency check (status <> 'live' or (currency is not null and currency <> '')) not valid;

-- A profile says who may approve refunds and where keys lie: services read it, `tabib tenant apply` alone writes it.
revoke insert, update on tabib.tenant_profile from tabib_app;
create policy relay on tabib.tenant_profile to tabib_relay using (true) with check (true);
grant select, insert, update on tabib.tenant_profile to tabib_relay;
