-- Up Migration

-- One index instead of two: `(seq, xid)` finds by number what `(xid, seq)` found by transaction. It cost a producer 1 us of an
-- insert's 11, and sixteen of them a twentieth of their throughput: they all write to an index's last page.
--
-- The relay seeks a transaction's rows above the highest number there was before that transaction had its id, so the
-- id must come before the number: hence a default that asks for the id first, where an identity column's number came first.
do $migration$
declare
  schema_name text;
  last bigint;
  used boolean;
  producer text;
begin
  -- Producers wait behind us: for a transaction that holds a table for long they are not made to.
  set local lock_timeout = '10s';
  foreach schema_name in array array['virtual_care', 'billing', 'communication'] loop
    -- Nobody may draw a number between the old sequence's last and the new one's first.
    execute format('lock table %I.outbox in access exclusive mode', schema_name);
    execute format('select last_value, is_called from %I.outbox_seq_seq', schema_name) into last, used;
    execute format('alter table %I.outbox alter column seq drop identity', schema_name);
    -- Not owned by the column: `truncate … restart identity` must not take numbers back.
    execute format('create sequence %1$I.outbox_number', schema_name);
    perform setval(format('%I.outbox_number', schema_name), last, used);
    execute format($sql$
      alter table %1$I.outbox alter column seq
        set default case when pg_current_xact_id() is not null then nextval('%1$I.outbox_number') end;
      grant select on sequence %1$I.outbox_number to tabib_relay;
      drop index %1$I.outbox_xid;
      drop index %1$I.outbox_seq;
      create index outbox_seq on %1$I.outbox (seq, xid);
    $sql$, schema_name);
    -- A number from a sequence needs a privilege, where an identity's needed none: for all who may insert.
    for producer in
      select distinct r.rolname
      from (
        select attacl as acl from pg_attribute where attrelid = to_regclass(format('%I.outbox', schema_name))
        union all
        select relacl from pg_class where oid = to_regclass(format('%I.outbox', schema_name))
      ) of_outbox
      cross join aclexplode(acl) g
      join pg_roles r on r.oid = g.grantee
      where g.privilege_type = 'INSERT'
    loop
      execute format('grant usage on sequence %I.outbox_number to %I', schema_name, producer);
    end loop;
  end loop;
end
$migration$;

alter table tabib.outbox_progress
  -- Rows of transactions that `done` knows nothing of have higher numbers than this; where that is not known it is 0.
  add column floor bigint not null default 0,
  -- The same for each transaction that was open in `done`, in the order of its list; where one is missing it is 0.
  add column lows bigint[] not null default '{}';
