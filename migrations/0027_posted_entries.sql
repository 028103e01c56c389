-- Up Migration

-- `ledger verify` reads new entries in the order of posting from this alone, without a visit to the heap or to each account.
drop index billing.entry_transaction;
create index entry_transaction on billing.entry (tenant_id, transaction_id, account_id, seq)
  include (xid, amount_minor, balance_minor, posted_at, currency);
