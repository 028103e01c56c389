-- Up Migration

-- Answers that hold a join token lay here in clear; they are kept encrypted from now on (docs/idempotency.md), under another
-- name, so that these would not be found again.
alter table virtual_care.idempotency_key no force row level security;
delete from virtual_care.idempotency_key where route like '%/join-token';
alter table virtual_care.idempotency_key force row level security;

-- `ledger verify` reads transactions and the number of a transaction's entries from these alone, without a visit to the heap.
drop index billing.journal_transaction_xid;
create index journal_transaction_xid on billing.journal_transaction (xid, id)
  include (tenant_id, posted_at, kind, business_key, reverses, incident_id);
drop index billing.entry_transaction;
create index entry_transaction on billing.entry (tenant_id, transaction_id) include (xid);
-- An index says all only of pages that were vacuumed since; left alone, what is only ever inserted is so when a fifth is new.
alter table billing.journal_transaction set (autovacuum_vacuum_insert_scale_factor = 0.01);
alter table billing.entry set (autovacuum_vacuum_insert_scale_factor = 0.01);
