-- Up Migration

-- Charges that found no price, by the minute: "the rate spikes" is judged from rows, so that one command can tell.
create table billing.price_refusal (
  tenant_id uuid not null references tabib.tenant (id),
  minute timestamptz not null,
  -- As it was asked for: it need not be an item of the tenant.
  item_code text not null,
  n bigint not null check (n > 0),
  primary key (tenant_id, minute, item_code)
);
create index price_refusal_minute on billing.price_refusal (minute);

-- Money that is to go back. Whoever asks for it never decides about it.
create table billing.refund (
  tenant_id uuid not null references tabib.tenant (id),
  id uuid not null default tabib.uuid_v7(),
  patient_id uuid not null,
  -- What is paid back; its charge, where there is one.
  charge_id uuid,
  amount_minor bigint not null check (amount_minor > 0),
  currency text not null,
  state text not null default 'requested' check (state in ('requested', 'approved', 'rejected', 'paid')),
  requested_by text not null,
  requested_at timestamptz not null default clock_timestamp(),
  -- Whose decision it is before it is a supervisor's. Staff as the identity provider names them.
  clinician text,
  decided_by text,
  decided_at timestamptz,
  paid_at timestamptz,
  primary key (tenant_id, id),
  constraint refund_needs_two_people check (decided_by <> requested_by),
  constraint refund_decided check ((state = 'requested') = (decided_by is null) and (decided_by is null) = (decided_at is null)),
  constraint refund_paid check ((state = 'paid') = (paid_at is not null))
);
create index refund_waiting on billing.refund (requested_at) where state = 'requested';
create index refund_decided_at on billing.refund (decided_at);

-- Who was told that a refund is stuck, and by which incident: nobody is told twice.
create table billing.refund_escalation (
  tenant_id uuid not null,
  refund_id uuid not null,
  incident_id uuid not null references tabib.incident (id),
  escalated_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, refund_id, incident_id),
  foreign key (tenant_id, refund_id) references billing.refund (tenant_id, id)
);
create index refund_escalation_incident on billing.refund_escalation (incident_id);

do $$
declare
  name text;
begin
  foreach name in array array['price_refusal', 'refund', 'refund_escalation'] loop
    execute format('alter table billing.%I enable row level security', name);
    execute format('alter table billing.%I force row level security', name);
    execute format('create policy tenant on billing.%I to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy auditor on billing.%I for select to tabib_auditor using (true)', name);
    execute format('grant select on billing.%I to tabib_app, tabib_auditor', name);
  end loop;
end
$$;
grant insert, update on billing.refund to tabib_app;
-- Counting and escalating are tabib's own work, for all tenants at once; neither changes a refund.
create policy relay on billing.price_refusal to tabib_relay using (true) with check (true);
create policy relay on billing.refund_escalation to tabib_relay using (true) with check (true);
grant select, insert, update, delete on billing.price_refusal to tabib_relay;
grant select, insert on billing.refund_escalation to tabib_relay;

-- What a charge might repeat, and which charge or payment accounts for a posting (src/domain/ledger/duplicates.ts).
create index charge_session on billing.charge (tenant_id, session_id);
create index charge_patient on billing.charge (tenant_id, patient_id, captured_at);
create index charge_transaction on billing.charge (tenant_id, transaction_id);
create index payment_transaction on billing.payment (tenant_id, transaction_id);
