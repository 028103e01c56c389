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
