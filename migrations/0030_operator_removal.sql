-- Up Migration

-- A removed operator's row stays: what they signed while they were one is verified by it, and their key is nobody's again. The
-- name may be given a new key.
alter table tabib.approval_use drop constraint approval_use_approver_fkey;
alter table tabib.operator
  drop constraint operator_pkey,
  drop constraint operator_kid_key,
  add primary key (kid),
  add column removed_at timestamptz,
  add column removed_by text,
  add check ((removed_at is null) = (removed_by is null));
create unique index operator_name on tabib.operator (name) where removed_at is null;
comment on column tabib.operator.removed_at is 'since then nothing counts that the key signs or has signed';

grant update (removed_at, removed_by) on tabib.operator to tabib_relay;
