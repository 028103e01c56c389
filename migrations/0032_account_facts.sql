-- Up Migration

-- `ledger verify` holds every account against its seal; accounts lie all over the heap, and seldom change.
create index account_facts on billing.account (tenant_id, id) include (currency, opening_minor, code);
