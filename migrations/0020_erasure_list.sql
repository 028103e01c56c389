-- Up Migration

-- Which erasures and holds of this database stand in the list outside of it (src/domain/erasure/remember.ts), and where.
create table tabib.erasure_memory (
  kind text not null check (kind in ('request', 'hold', 'release')),
  -- Of the request or the hold.
  ref uuid not null,
  -- In the stream.
  seq bigint not null,
  primary key (kind, ref)
);

-- Up to where everything that the list says is in this database. A restored one is behind, and takes no traffic until
-- `tabib erasure reapply`.
create table tabib.erasure_mark (
  only_one boolean primary key default true check (only_one),
  seq bigint not null default 0,
  -- The stream that `seq` counts in: a new one begins at 1 again.
  stream_created timestamptz,
  -- Where the mark was set: a copy elsewhere is told from the original although the list cannot be asked.
  system_identifier text,
  database_oid oid,
  timeline int,
  -- From the first entry that `reapply` puts back until everybody is erased again.
  reapplying boolean not null default false
);
insert into tabib.erasure_mark default values;

grant select on tabib.erasure_memory, tabib.erasure_mark to tabib_relay, tabib_auditor;
grant insert, update, delete on tabib.erasure_memory to tabib_relay;
grant update (seq, stream_created, system_identifier, database_oid, timeline, reapplying) on tabib.erasure_mark to tabib_relay;
