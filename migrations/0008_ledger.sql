-- Up Migration

-- The double-entry ledger (docs/ledger.md). Only billing.post writes it; entries and transactions are appended, never changed.

-- An account's, from its first post on.
create table billing.balance (
  tenant_id uuid not null,
  account_id uuid not null,
  balance_minor bigint not null default 0,
  -- Of its last entry.
  seq bigint not null default 0,
  frozen_at timestamptz,
  frozen_reason text,
  frozen_incident uuid,
  primary key (tenant_id, account_id),
  foreign key (tenant_id, account_id) references billing.account (tenant_id, id),
  check ((frozen_at is null) = (frozen_reason is null) and (frozen_at is null) = (frozen_incident is null))
);
create index balance_frozen on billing.balance (frozen_at) where frozen_at is not null;

create table billing.journal_transaction (
  tenant_id uuid not null references tabib.tenant (id),
  id uuid not null default tabib.uuid_v7(),
  -- charge, payment, refund, reversal, adjustment …
  kind text not null check (kind ~ '^[a-z][a-z-]{0,39}$'),
  -- What makes it one for ever: the CloudEvents id of a charge, a payment's key …
  business_key text not null check (length(business_key) between 1 and 300),
  reverses uuid,
  -- Of tabib.incident: posted to mend what it found, and so allowed on the accounts that it froze.
  incident_id uuid,
  posted_at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, business_key),
  -- Nothing is reversed twice.
  unique (tenant_id, reverses),
  foreign key (tenant_id, reverses) references billing.journal_transaction (tenant_id, id)
);

create table billing.entry (
  tenant_id uuid not null,
  account_id uuid not null,
  -- 1, 2, 3 … without a gap in its account.
  seq bigint not null check (seq > 0),
  transaction_id uuid not null,
  -- Debit positive, credit negative; nothing only where an adjustment notes a fault that moved no amount.
  amount_minor bigint not null,
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  -- The account's balance after this entry.
  balance_minor bigint not null,
  posted_at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  -- With the amount: the balance pass reads this index alone, in its order.
  primary key (tenant_id, account_id, seq) include (amount_minor),
  foreign key (tenant_id, account_id) references billing.balance (tenant_id, account_id),
  foreign key (tenant_id, transaction_id) references billing.journal_transaction (tenant_id, id)
);
create index entry_transaction on billing.entry (tenant_id, transaction_id);

-- What verification found in an account's history and two people explained. History stays as it is, so the same fault is
-- found for ever: here it is known, exactly as it was seen then, with the transaction that made up for it.
create table billing.mended_fault (
  tenant_id uuid not null,
  account_id uuid not null,
  -- The adjusting transaction.
  transaction_id uuid not null,
  check_name text not null,
  -- The entry; null where the fault is the account's.
  seq bigint,
  -- The transaction that the fault is in.
  of_transaction uuid,
  expected text,
  seen text,
  mended_at timestamptz not null default clock_timestamp(),
  unique nulls not distinct (tenant_id, account_id, transaction_id, check_name, seq, of_transaction, expected, seen),
  foreign key (tenant_id, account_id) references billing.balance (tenant_id, account_id),
  foreign key (tenant_id, transaction_id) references billing.journal_transaction (tenant_id, id)
);

create function billing.refuse_ledger_change() returns trigger
language plpgsql
as $$
begin
  raise exception '%.% is append-only: nothing in it is updated, deleted or truncated', tg_table_schema, tg_table_name
    using errcode = 'insufficient_privilege', hint = 'post a reversing transaction instead (docs/ledger.md)';
end
$$;
-- For statements, so that it answers even where row-level security leaves no row to change.
create trigger entry_append_only before update or delete or truncate on billing.entry
  for each statement execute function billing.refuse_ledger_change();
create trigger transaction_append_only before update or delete or truncate on billing.journal_transaction
  for each statement execute function billing.refuse_ledger_change();
create trigger mended_append_only before update or delete or truncate on billing.mended_fault
  for each statement execute function billing.refuse_ledger_change();

-- Whoever inserts without billing.post meets the freeze as well. The lock makes one that is being frozen wait its turn.
create function billing.refuse_frozen() returns trigger
language plpgsql
as $$
declare
  frozen record;
begin
  select b.frozen_at, b.frozen_reason, b.frozen_incident into frozen
  from billing.balance b where b.tenant_id = new.tenant_id and b.account_id = new.account_id
  for share;
  if frozen.frozen_at is not null and not exists (
    select from billing.journal_transaction t
    where t.tenant_id = new.tenant_id and t.id = new.transaction_id and t.incident_id = frozen.frozen_incident)
  then
    raise exception 'account % is frozen since %: %', new.account_id,
        to_char(frozen.frozen_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), frozen.frozen_reason
      using errcode = 'LG002', detail = new.account_id::text;
  end if;
  return new;
end
$$;
create trigger entry_frozen before insert on billing.entry for each row execute function billing.refuse_frozen();

-- Whether a transaction has these entries, in any order, and no other.
create function billing.has_entries(
  of_tenant uuid, of_transaction uuid, account_ids uuid[], amounts_minor numeric[], currencies text[]
) returns boolean
language sql stable
begin atomic
  select (select count(*) from billing.entry e where e.tenant_id = of_tenant and e.transaction_id = of_transaction)
      = cardinality(account_ids)
    and not exists (
      select account_id, amount_minor, currency from billing.entry e
      where e.tenant_id = of_tenant and e.transaction_id = of_transaction
      except all
      select * from unnest(account_ids, amounts_minor, currencies));
end;
revoke all on function billing.has_entries from public;

-- Posts one transaction of the tenant that app.tenant_id names: all of it or nothing, with its event in the same
-- transaction. What was posted under the business key before is given back with posted_before; nothing is posted then.
-- Locks the accounts' balances in the order of their ids. Its errors are of class LG (src/domain/ledger/post.ts).
create function billing.post(
  p_tenant_id uuid,
  p_kind text,
  p_business_key text,
  p_account_ids uuid[],
  -- Numerics, so that a fraction or an overflow is told instead of rounded.
  p_amounts_minor numeric[],
  p_currencies text[],
  p_reverses uuid default null,
  p_incident_id uuid default null
) returns table (transaction_id uuid, posted_before boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_max constant numeric := 9223372036854775807;
  v_id uuid;
  v_at timestamptz;
  v_entry record;
  v_account record;
  v_first record;
  v_last record;
  v_balance numeric;
begin
  if p_tenant_id is distinct from nullif(current_setting('app.tenant_id', true), '')::uuid then
    raise exception 'the transaction is of tenant %, and app.tenant_id is %', coalesce(p_tenant_id::text, 'null'),
      coalesce(nullif(current_setting('app.tenant_id', true), ''), 'not set') using errcode = 'LG009';
  end if;
  -- A service cannot pass for an incident's mending and so post where it is frozen.
  if p_incident_id is not null and not pg_has_role(session_user, 'tabib_relay', 'member') then
    raise exception '% may not post for incident %', session_user, p_incident_id using errcode = 'LG009';
  end if;
  if p_kind is null or p_kind !~ '^[a-z][a-z-]{0,39}$' or p_business_key is null
    or length(p_business_key) not between 1 and 300
    or coalesce(cardinality(p_account_ids), 0) = 0
    or (cardinality(p_account_ids) = 1 and p_incident_id is null)
    or cardinality(p_account_ids) <> cardinality(p_amounts_minor)
    or cardinality(p_account_ids) is distinct from cardinality(p_currencies)
  then
    raise exception 'a transaction has a kind, a business key of at most 300 characters and two entries or more, each with account, amount and currency; seen: kind %, % entries',
      coalesce(p_kind, 'null'), coalesce(cardinality(p_account_ids), 0) using errcode = 'LG000';
  end if;
  for v_entry in
    select a.amount, a.ord from unnest(p_amounts_minor) with ordinality as a(amount, ord)
    where a.amount is null or (a.amount = 0 and p_incident_id is null) or a.amount <> trunc(a.amount) or a.amount not between -v_max and v_max
  loop
    raise exception 'entry %: the amount % is not a whole number of minor units between 1 and % (credit: negative)',
      v_entry.ord, coalesce(v_entry.amount::text, 'null'), v_max using errcode = 'LG004';
  end loop;
  for v_entry in
    select e.currency, sum(e.amount) as off from unnest(p_amounts_minor, p_currencies) as e(amount, currency)
    group by 1 having sum(e.amount) <> 0
  loop
    raise exception 'the entries in % sum to %, not to zero', v_entry.currency, v_entry.off using errcode = 'LG005';
  end loop;

  if p_reverses is not null then
    -- One reversal at a time, so that the second sees the first.
    perform from billing.journal_transaction t where t.tenant_id = p_tenant_id and t.id = p_reverses for no key update;
    if not found then
      raise exception 'there is no transaction % to reverse', p_reverses using errcode = 'LG008';
    end if;
    select t.id into v_id from billing.journal_transaction t
    where t.tenant_id = p_tenant_id and t.reverses = p_reverses and t.business_key <> p_business_key;
    if found then
      raise exception 'transaction % is reversed already, by %', p_reverses, v_id using errcode = 'LG008';
    end if;
    if not billing.has_entries(p_tenant_id, p_reverses, p_account_ids,
      (select array_agg(-a.amount order by a.ord) from unnest(p_amounts_minor) with ordinality as a(amount, ord)),
      p_currencies)
    then
      raise exception 'these are not the entries of transaction % with the other sign', p_reverses using errcode = 'LG008';
    end if;
  end if;

  -- Waits for whoever posts under the same key at this moment.
  insert into billing.journal_transaction (tenant_id, kind, business_key, reverses, incident_id)
  values (p_tenant_id, p_kind, p_business_key, p_reverses, p_incident_id)
  on conflict (tenant_id, business_key) do nothing
  returning id into v_id;
  if v_id is null then
    select t.id, t.kind = p_kind and t.reverses is not distinct from p_reverses
        and billing.has_entries(p_tenant_id, t.id, p_account_ids, p_amounts_minor, p_currencies) as same
      into v_first
    from billing.journal_transaction t where t.tenant_id = p_tenant_id and t.business_key = p_business_key;
    if not v_first.same then
      raise exception 'business key % is of transaction %, which has another content', p_business_key, v_first.id
        using errcode = 'LG007';
    end if;
    return query select v_first.id, true;
    return;
  end if;

  insert into billing.balance (tenant_id, account_id)
  select a.tenant_id, a.id from billing.account a
  where a.tenant_id = p_tenant_id and a.id = any(p_account_ids)
    and not exists (select from billing.balance b where b.tenant_id = a.tenant_id and b.account_id = a.id)
  order by a.id
  on conflict do nothing;
  for v_entry in
    select e.* from unnest(p_account_ids, p_amounts_minor, p_currencies) with ordinality as e(account_id, amount, currency, ord)
    order by e.account_id, e.ord
  loop
    select b.balance_minor, b.seq, b.frozen_at, b.frozen_reason, b.frozen_incident, a.currency into v_account
    from billing.balance b join billing.account a on a.tenant_id = b.tenant_id and a.id = b.account_id
    where b.tenant_id = p_tenant_id and b.account_id = v_entry.account_id
    for no key update of b;
    if not found then
      raise exception 'tenant % has no account %', p_tenant_id, coalesce(v_entry.account_id::text, 'null')
        using errcode = 'LG001';
    end if;
    if v_account.frozen_at is not null and v_account.frozen_incident is distinct from p_incident_id then
      raise exception 'account % is frozen since %: %', v_entry.account_id,
          to_char(v_account.frozen_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), v_account.frozen_reason
        using errcode = 'LG002', detail = v_entry.account_id::text;
    end if;
    if v_entry.currency is distinct from v_account.currency then
      raise exception 'account % is kept in %, and the entry is in %', v_entry.account_id, v_account.currency,
        coalesce(v_entry.currency, 'null') using errcode = 'LG003';
    end if;
    if v_account.frozen_at is null then
      select e.seq, e.balance_minor into v_last from billing.entry e
      where e.tenant_id = p_tenant_id and e.account_id = v_entry.account_id order by e.seq desc limit 1;
      if (v_account.seq, v_account.balance_minor) is distinct from (coalesce(v_last.seq, 0), coalesce(v_last.balance_minor, 0)) then
        raise exception 'account %: its balance is % at sequence %, and its last entry says % at %', v_entry.account_id,
          v_account.balance_minor, v_account.seq, coalesce(v_last.balance_minor, 0), coalesce(v_last.seq, 0)
          using errcode = 'LG010', detail = v_entry.account_id::text;
      end if;
    end if;
    v_balance := v_account.balance_minor + v_entry.amount;
    if v_balance not between -v_max and v_max then
      raise exception 'account %: its balance would be %, and the largest is %', v_entry.account_id, v_balance, v_max
        using errcode = 'LG006';
    end if;
    -- Read under the lock, so that an account's times are in the order of its sequence.
    v_at := clock_timestamp();
    insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor, posted_at)
    values (p_tenant_id, v_entry.account_id, v_account.seq + 1, v_id, v_entry.amount, v_entry.currency, v_balance, v_at);
    update billing.balance b set balance_minor = v_balance, seq = v_account.seq + 1
    where b.tenant_id = p_tenant_id and b.account_id = v_entry.account_id;
  end loop;

  insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
  values (p_tenant_id, 'ledger', v_id::text, 'posted', jsonb_strip_nulls(jsonb_build_object(
    'transactionId', v_id, 'kind', p_kind, 'accountIds', (select jsonb_agg(distinct a) from unnest(p_account_ids) a),
    'reverses', p_reverses, 'incidentId', p_incident_id)));
  return query select v_id, false;
end
$$;
revoke all on function billing.post from public;
grant execute on function billing.post to tabib_app, tabib_relay;

-- Mends a frozen account, for tabib alone: takes its balance from its entries again, posts one adjusting transaction of
-- the account's incident for what they lack (against another account of the tenant, or nothing), and notes what it
-- explains. `p_seq` is the number that the sequence goes on after. Repeated under the same key it changes nothing.
create function billing.mend(
  p_tenant_id uuid,
  p_account_id uuid,
  p_incident_id uuid,
  p_business_key text,
  p_amount_minor numeric,
  p_against uuid,
  p_currency text,
  p_seq bigint,
  p_faults jsonb
) returns table (transaction_id uuid, posted_before boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_posted record;
  v_new record;
  v_sum numeric;
  v_last record;
  v_frozen uuid;
begin
  if p_tenant_id is distinct from nullif(current_setting('app.tenant_id', true), '')::uuid then
    raise exception 'the account is of tenant %, and app.tenant_id is %', p_tenant_id,
      coalesce(nullif(current_setting('app.tenant_id', true), ''), 'not set') using errcode = 'LG009';
  end if;
  select b.frozen_incident into v_frozen from billing.balance b
  where b.tenant_id = p_tenant_id and b.account_id = p_account_id for no key update;
  if v_frozen is distinct from p_incident_id or p_incident_id is null then
    raise exception 'account % is not frozen by incident %', p_account_id, coalesce(p_incident_id::text, 'null')
      using errcode = 'LG011';
  end if;
  if not exists (select from billing.journal_transaction t where t.tenant_id = p_tenant_id and t.business_key = p_business_key) then
    select coalesce(sum(e.amount_minor), 0) as total into v_sum from billing.entry e
    where e.tenant_id = p_tenant_id and e.account_id = p_account_id;
    select e.seq, e.balance_minor into v_last from billing.entry e
    where e.tenant_id = p_tenant_id and e.account_id = p_account_id order by e.seq desc limit 1;
    update billing.balance b set balance_minor = v_sum, seq = p_seq
    where b.tenant_id = p_tenant_id and b.account_id = p_account_id;
  end if;
  select * into v_posted from billing.post(p_tenant_id, 'adjustment', p_business_key,
    case when p_amount_minor = 0 then array[p_account_id] else array[p_account_id, p_against] end,
    case when p_amount_minor = 0 then array[0] else array[p_amount_minor, -p_amount_minor] end,
    case when p_amount_minor = 0 then array[p_currency] else array[p_currency, p_currency] end,
    null, p_incident_id);
  if v_posted.posted_before then
    return query select v_posted.transaction_id, true;
    return;
  end if;
  insert into billing.mended_fault (tenant_id, account_id, transaction_id, check_name, seq, of_transaction, expected, seen)
  select p_tenant_id, p_account_id, v_posted.transaction_id, f."check", f.seq, f."transactionId", f.expected, f.seen
  from jsonb_to_recordset(p_faults) as f("check" text, seq bigint, "transactionId" uuid, expected text, seen text);
  -- Where the new entry takes up the true balance and sequence, it does not follow from the one before.
  select e.seq, e.amount_minor, e.balance_minor into v_new from billing.entry e
  where e.tenant_id = p_tenant_id and e.transaction_id = v_posted.transaction_id and e.account_id = p_account_id;
  insert into billing.mended_fault (tenant_id, account_id, transaction_id, check_name, seq, of_transaction, expected, seen)
  select p_tenant_id, p_account_id, v_posted.transaction_id, own.check_name, v_new.seq, v_posted.transaction_id,
    own.expected::text, own.seen::text
  from (values
    ('sequence', (coalesce(v_last.seq, 0) + 1)::numeric, v_new.seq::numeric),
    ('chain', coalesce(v_last.balance_minor, 0) + v_new.amount_minor::numeric, v_new.balance_minor::numeric)
  ) as own(check_name, expected, seen)
  where own.expected <> own.seen;
  return query select v_posted.transaction_id, false;
end
$$;
revoke all on function billing.mend from public;
grant execute on function billing.mend to tabib_relay;

do $$
declare
  name text;
begin
  foreach name in array array['balance', 'journal_transaction', 'entry', 'mended_fault'] loop
    execute format('alter table billing.%I enable row level security', name);
    execute format('alter table billing.%I force row level security', name);
    -- The owner, as whom billing.post runs, is held to the tenant like everyone.
    execute format('create policy tenant on billing.%I for select to tabib_app, current_user
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy tenant_insert on billing.%I for insert to current_user
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy auditor on billing.%I for select to tabib_auditor using (true)', name);
    execute format('grant select on billing.%I to tabib_app, tabib_auditor', name);
  end loop;
end
$$;
create policy owner on billing.account for select to current_user
  using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
-- For the row's lock as well, which postgres counts as an update.
create policy tenant_update on billing.balance for update to current_user
  using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
create policy tenant_lock on billing.journal_transaction for update to current_user
  using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
-- A service that tries it gets the trigger's words; no policy would show it a row to change.
grant update, delete on billing.entry, billing.journal_transaction to tabib_app;
-- tabib freezes, and mends by billing.mend.
create policy freezes on billing.balance for update to tabib_relay using (true) with check (true);
create policy relay on billing.balance for select to tabib_relay using (true);
create policy relay_insert on billing.balance for insert to tabib_relay with check (true);
grant select, insert (tenant_id, account_id, frozen_at, frozen_reason, frozen_incident), update (frozen_at, frozen_reason, frozen_incident) on billing.balance to tabib_relay;
-- An account's code and currency are for ever once it is there.
revoke update on billing.account from tabib_app;
