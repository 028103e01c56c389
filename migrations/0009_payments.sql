-- Up Migration

-- The answer to a write by its Idempotency-Key, one table a service; the contract is docs/idempotency.md. A row commits with
-- the effect that it answers for. It lives for 24 hours by the database's clock: nobody may update it, and before its time
-- nobody may delete it.
do $$
declare
  name text;
begin
  foreach name in array array['virtual_care', 'billing', 'communication'] loop
    execute format($sql$
      create table %1$I.idempotency_key (
        tenant_id uuid not null references tabib.tenant (id),
        -- Method and path, with names in place of ids.
        route text not null,
        key text not null check (length(key) between 1 and 255),
        -- SHA-256 of what was asked for: the ids in the path, and the canonical body.
        fingerprint bytea not null,
        status smallint not null check (status between 200 and 299),
        body text not null,
        created_at timestamptz not null default now(),
        primary key (tenant_id, route, key)
      );
      create index idempotency_key_created on %1$I.idempotency_key (created_at);
      alter table %1$I.idempotency_key enable row level security;
      alter table %1$I.idempotency_key force row level security;
      create policy tenant on %1$I.idempotency_key to tabib_app
        using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid))
        with check (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      create policy relay on %1$I.idempotency_key to tabib_relay using (true) with check (true);
      create policy auditor on %1$I.idempotency_key for select to tabib_auditor using (true);
      create policy for_24_hours on %1$I.idempotency_key as restrictive for delete
        using (created_at <= now() - interval '24 hours');
      grant select, delete, insert (tenant_id, route, key, fingerprint, status, body) on %1$I.idempotency_key to tabib_app;
      -- A key that was lost is put back with its own time.
      grant select, insert, delete on %1$I.idempotency_key to tabib_relay;
      -- Answers may hold tokens; whoever audits needs none.
      grant select (tenant_id, route, key, created_at) on %1$I.idempotency_key to tabib_auditor;
    $sql$, name);
  end loop;
end
$$;

-- Money keeps its key for ever, beyond the 24 hours: a retry after them finds its payment, and makes no second.
create table billing.payment (
  tenant_id uuid not null references tabib.tenant (id),
  id uuid not null default tabib.uuid_v7(),
  -- Whose debt it lessens: a receivable account.
  account_id uuid not null,
  amount_minor bigint not null check (amount_minor > 0),
  currency text not null,
  -- 'cash', or the name of a payment gateway.
  method text not null,
  -- The receipt's number, or the gateway's own for it.
  reference text,
  idempotency_key text not null,
  fingerprint bytea not null,
  transaction_id uuid not null,
  paid_at timestamptz not null default now(),
  primary key (tenant_id, id),
  constraint payment_once unique (tenant_id, idempotency_key),
  foreign key (tenant_id, account_id) references billing.account (tenant_id, id),
  foreign key (tenant_id, transaction_id) references billing.journal_transaction (tenant_id, id)
);
create index payment_paid_at on billing.payment (paid_at);

alter table billing.charge
  add column account_id uuid,
  add column transaction_id uuid,
  -- Of a charge that was asked for by API; one by event has its event_id.
  add column idempotency_key text,
  add column fingerprint bytea,
  add constraint charge_once unique (tenant_id, idempotency_key),
  add foreign key (tenant_id, account_id) references billing.account (tenant_id, id),
  add foreign key (tenant_id, transaction_id) references billing.journal_transaction (tenant_id, id);
create index charge_captured_at on billing.charge (captured_at) where idempotency_key is not null;

-- Payments that were refused because their tenant has no currency, minute by minute.
create table billing.currency_refusal (
  tenant_id uuid not null references tabib.tenant (id),
  minute timestamptz not null,
  n bigint not null,
  primary key (tenant_id, minute)
);

do $$
declare
  name text;
begin
  foreach name in array array['payment', 'currency_refusal'] loop
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
grant insert on billing.payment to tabib_app;
create policy relay on billing.currency_refusal to tabib_relay using (true) with check (true);
grant select, insert, update, delete on billing.currency_refusal to tabib_relay;
-- What a lost key's answer is made of again.
grant select (patient_id, account_id, code, amount_minor, currency, transaction_id, idempotency_key, fingerprint)
  on billing.charge to tabib_auditor;
