-- Up Migration

-- `ledger verify` reads every entry's digest from this index alone, in its order: the heap lies in the order of posting,
-- and to visit it account by account costs ten times as much.
alter table billing.entry
  drop constraint entry_pkey,
  add primary key (tenant_id, account_id, seq)
    include (amount_minor, balance_minor, transaction_id, currency, posted_at);

-- The order in which transactions are sealed: by snapshot windows, which miss no late commit.
create index journal_transaction_xid on billing.journal_transaction (xid, id);

-- What the database knows of the seals that lie outside it (docs/ledger-integrity.md): a folder that was rolled back or
-- emptied is told from one that never was.
create table tabib.ledger_seal (
  n bigint primary key check (n > 0),
  -- SHA-256 of the seal's JWS.
  digest text not null,
  sealed_at timestamptz not null default clock_timestamp()
);
grant select on tabib.ledger_seal to tabib_auditor;
grant select, insert on tabib.ledger_seal to tabib_relay;
