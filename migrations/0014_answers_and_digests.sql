-- Up Migration

-- Answers that hold a join token lay here in clear; they are kept encrypted from now on (docs/idempotency.md), under another
-- name, so that these would not be found again.
alter table virtual_care.idempotency_key no force row level security;
delete from virtual_care.idempotency_key where route like '%/join-token';
alter table virtual_care.idempotency_key force row level security;
