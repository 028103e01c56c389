-- Up Migration

-- When a message is to be handed to its provider. Those that were made before have none: what is that late is not sent.
alter table communication.message
  add column due_at timestamptz,
  -- Claims of a worker; the last one alone may send.
  add column attempts int not null default 0,
  -- Code of what it last failed with.
  add column last_error text;
alter table communication.message alter column due_at set default clock_timestamp();
create index message_due on communication.message (due_at) where status = 'queued';
comment on column communication.message.due_at is 'of a queued message: not before; of one that is being sent: when its claim ends';

-- Whoever claims sees what is due and whose way it goes, neither for whom nor what it says.
create policy relay on communication.message to tabib_relay using (true) with check (true);
grant select (id, tenant_id, channel, template, status, due_at, attempts), update (due_at, attempts)
  on communication.message to tabib_relay;
-- An erased patient's message is not sent.
grant update (status) on communication.message to tabib_erasure;

-- Where pushes of a person go: what their device was registered with last.
alter table communication.contact add column push_token text;
grant update (push_token) on communication.contact to tabib_app;
