-- Up Migration

-- How each running process fares, as it tells itself every two seconds: for failures that one process alone sees.
create table tabib.process (
  -- Host, process number and start.
  instance text primary key,
  host text not null,
  what text not null check (what in ('api', 'worker')),
  at timestamptz not null default clock_timestamp(),
  -- Of its last five seconds: pieces of work that wanted a connection, how long they waited, and how many got none.
  waits int not null,
  wait_p95_s double precision not null,
  refused int not null,
  -- How far this database's clock is ahead of the host's, and to how much that is known; null before the first answer.
  clock_offset_s double precision,
  clock_error_s double precision,
  -- Whether the host's clock follows NTP, as far as it can be told there.
  ntp text check (ntp in ('synchronised', 'unsynchronised', 'unknown'))
);
comment on table tabib.process is 'Running processes: waits for database connections, clock; billing/FM-19, billing/FM-12, communication/C16';
grant select, insert, update, delete on tabib.process to tabib_relay;
grant select on tabib.process to tabib_auditor;
