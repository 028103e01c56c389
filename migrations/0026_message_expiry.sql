-- Up Migration

alter table communication.message
  -- When a worker first took it on; due_at moves with each attempt.
  add column first_tried_at timestamptz,
  add column expires_at timestamptz;
comment on column communication.message.expires_at is
  'worthless afterwards, as a reminder once the appointment has begun; where it is null messaging.maxAge decides';

grant select (first_tried_at, expires_at, last_error), update (status, first_tried_at) on communication.message to tabib_relay;
-- Those that never went out are counted, among millions that did.
create index message_unsent on communication.message (due_at) where status in ('failed', 'expired');
