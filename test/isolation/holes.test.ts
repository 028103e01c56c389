import { expect, test } from 'vitest'
import { useForeignDatabase } from '../support/isolation.ts'

const mine = `tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)`
const isolated = (table: string) => `
  alter table ${table} enable row level security;
  alter table ${table} force row level security;
  create policy tenant on ${table} using (${mine}) with check (${mine});
  grant select, insert, update, delete on ${table} to $app;`

const database = useForeignDatabase(`
  create table tenant (id uuid primary key, name text not null);
  create table country (code text primary key, name text not null);
  grant select on tenant, country to $app;

  create table patient (
    id uuid not null default gen_random_uuid(),
    tenant_id uuid not null references tenant,
    country text references country,
    mrn text not null,
    name text not null,
    primary key (id),
    unique (tenant_id, id),
    unique (tenant_id, mrn)
  );
  create table visit (
    id bigint generated always as identity primary key,
    tenant_id uuid not null references tenant,
    patient_id uuid not null,
    room int not null,
    at tstzrange not null,
    foreign key (tenant_id, patient_id) references patient (tenant_id, id) on delete cascade
  );
  create table note (
    id uuid not null default gen_random_uuid(),
    tenant_id uuid not null,
    no bigint generated always as identity,
    body text,
    day date not null default current_date,
    primary key (id, day)
  ) partition by range (day);
  create table note_2026 partition of note for values from ('2026-01-01') to ('2027-01-01');
  create table note_rest partition of note default;
  create table note_tag (note_id uuid not null, tag text not null);
  ${isolated('patient')} ${isolated('visit')} ${isolated('note')}
  alter table note_2026 enable row level security; alter table note_2026 force row level security;
  alter table note_rest enable row level security; alter table note_rest force row level security;
  create view open_visit with (security_invoker = true) as select * from visit where not isempty(at);
  grant select on open_visit to $app;
  create function age(patient) returns int language sql stable as 'select 1';
  create function touch() returns trigger language plpgsql as 'begin new.name := trim(new.name); return new; end';
  create trigger touch before insert or update on patient for each row execute function touch();
`)

interface Hole {
  hole: string
  breaks: string
  mends: string
  finds: unknown[]
  /** Only a superuser can make it. */
  asAdmin?: true
}

const policy = (using: string, check = mine) => `drop policy tenant on patient;
  create policy tenant on patient using (${using}) with check (${check})`
const canonical = policy(mine)

const HOLES: Hole[] = [
  // ---- tables
  {
    hole: 'row-level security is off',
    breaks: 'alter table patient disable row level security',
    mends: 'alter table patient enable row level security',
    finds: ['rls-off public.patient'],
  },
  {
    hole: 'it does not hold for the owner',
    breaks: 'alter table patient no force row level security',
    mends: 'alter table patient force row level security',
    finds: ['rls-not-forced public.patient'],
  },
  {
    hole: 'a partition without it',
    breaks: 'alter table note_2026 disable row level security',
    mends: 'alter table note_2026 enable row level security',
    finds: ['rls-off public.note_2026'],
  },
  {
    hole: 'a new partition, made without it',
    breaks: `create table note_2027 partition of note for values from ('2027-01-01') to ('2028-01-01')`,
    mends: 'drop table note_2027',
    finds: ['rls-off public.note_2027'],
  },
  {
    hole: 'an inheritance child that may be read by itself',
    breaks: 'create table old_patient () inherits (patient); grant select on old_patient to $app',
    mends: 'drop table old_patient',
    finds: ['rls-off public.old_patient'],
  },
  {
    hole: 'an inheritance parent that shows its children',
    breaks:
      'create table person (name text not null); alter table patient inherit person; grant select on person to $app',
    mends: 'alter table patient no inherit person; drop table person',
    finds: ['tenant-column-missing public.person'],
  },
  {
    hole: 'a new table without it',
    breaks: 'create table bill (id uuid primary key, tenant_id uuid not null); grant select on bill to $app',
    mends: 'drop table bill',
    finds: ['rls-off public.bill'],
  },
  {
    hole: 'a child without the tenant, by its key',
    breaks: `create table allergy (patient_id uuid references patient, name text); grant select, insert on allergy to $app`,
    mends: 'drop table allergy',
    finds: ['tenant-column-missing public.allergy'],
  },
  {
    hole: 'a child of a child',
    breaks: `create table stay (visit_id bigint primary key references visit);
      create table meal (stay_id bigint references stay, dish text); grant select on meal to $app`,
    mends: 'drop table meal, stay',
    finds: ['tenant-column-missing public.meal'],
  },
  {
    hole: 'a child that no key ties to its parent',
    breaks:
      'create table prescription (patient_id uuid not null, drug text); grant select on prescription to $app',
    mends: 'drop table prescription',
    finds: ['tenant-column-missing public.prescription'],
  },
  {
    hole: 'persons that nothing ties to a tenant, written and read',
    breaks:
      'create table guest (id uuid primary key, full_name text, phone text); grant select, insert on guest to $app',
    mends: 'drop table guest',
    finds: ['tenant-column-missing public.guest'],
  },
  {
    hole: 'a trail of whose rows nobody can say',
    breaks: `create table trail (id bigint generated always as identity, table_name text, row_id text, was jsonb);
      alter table trail enable row level security; create policy everybody on trail using (true);
      grant select, insert on trail to $app`,
    mends: 'drop table trail',
    finds: ['tenant-column-missing public.trail'],
  },
  {
    hole: 'a copy without the tenant',
    breaks: 'create table backup as select id, mrn, name from patient; grant select (mrn) on backup to $app',
    mends: 'drop table backup',
    finds: ['tenant-column-missing public.backup'],
  },
  {
    hole: 'a table that was made part of an extension',
    breaks: `create table hidden (tenant_id uuid not null); grant select on hidden to $app; alter extension plpgsql add table hidden`,
    mends: 'alter extension plpgsql drop table hidden; drop table hidden',
    finds: ['rls-off public.hidden'],
    asAdmin: true,
  },
  {
    hole: 'a check of the tenant that old rows need not pass',
    breaks: `alter table patient alter column tenant_id drop not null;
      alter table patient add constraint later check (tenant_id is not null) not valid`,
    mends:
      'alter table patient drop constraint later; alter table patient alter column tenant_id set not null',
    finds: ['tenant-column-nullable public.patient.tenant_id'],
  },
  {
    hole: 'the tenant under another name',
    breaks:
      'create table contract (clinic uuid references tenant, terms text); grant select on contract to $app',
    mends: 'drop table contract',
    finds: ['rls-off public.contract'],
  },
  {
    hole: 'a tenant that may be null',
    breaks: 'alter table patient alter column tenant_id drop not null',
    mends: 'alter table patient alter column tenant_id set not null',
    finds: ['tenant-column-nullable public.patient.tenant_id'],
  },
  // ---- policies
  ...(
    [
      ['true', 'true'],
      ['open when nothing is set', `${mine} or current_setting('app.tenant_id', true) is null`],
      [
        'open when the setting is empty',
        `${mine} or nullif(current_setting('app.tenant_id', true), '') is null`,
      ],
      [
        'a fall-back to the row itself',
        `tenant_id = coalesce(nullif(current_setting('app.tenant_id', true), '')::uuid, tenant_id)`,
      ],
      [
        'a tenant for those without one',
        `tenant_id = coalesce(nullif(current_setting('app.tenant_id', true), ''), '7b0e9b3e-3a0b-4d6f-9d5d-111111111111')::uuid`,
      ],
      ['another column', `id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)`],
      ['another setting', `tenant_id = (select nullif(current_setting('app.user_id', true), '')::uuid)`],
      ['not the same', `tenant_id <> (select nullif(current_setting('app.tenant_id', true), '')::uuid)`],
      ['cut short', `left(tenant_id::text, 8) = left(current_setting('app.tenant_id', true), 8)`],
      ['cut short by a cast', `tenant_id::varchar(8) = current_setting('app.tenant_id', true)::varchar(8)`],
      ['a switch', `${mine} or current_setting('app.admin', true) = 'on'`],
      ['rows that are shared', `${mine} or name = 'shared'`],
      ['null is true', `(${mine}) is not false`],
      ['a pattern', `tenant_id::text like current_setting('app.tenant_id', true) || '%'`],
      [
        'any of two settings',
        `tenant_id = any (array[nullif(current_setting('app.tenant_id', true), '')::uuid, current_setting('app.other', true)::uuid])`,
      ],
      [
        'a field of the setting',
        `tenant_id = (nullif(current_setting('app.tenant_id', true), '')::json ->> 'wanted')::uuid`,
      ],
      ['any tenant that exists', 'tenant_id in (select id from tenant)'],
      [
        'one of several tenants',
        `tenant_id = any (array_append(string_to_array(current_setting('app.tenant_id', true), ',')::uuid[], tenant_id))`,
      ],
      [
        'a default list',
        `tenant_id = any (coalesce(nullif(current_setting('app.tenant_id', true), ''), '{7b0e9b3e-3a0b-4d6f-9d5d-111111111111}')::uuid[])`,
      ],
      [
        'without capitals on both sides',
        `lower(tenant_id::text) = lower(current_setting('app.tenant_id', true))`,
      ],
      [
        'a claim that users write themselves',
        `tenant_id = (current_setting('app.tenant_id', true)::json -> 'user_metadata' ->> 'tenant_id')::uuid`,
      ],
      [
        'distinct from nothing',
        `tenant_id is not distinct from nullif(current_setting('app.tenant_id', true), '')::uuid`,
      ],
      [
        'a join whose condition restrains nothing',
        `exists (select from tenant t left join visit v on v.tenant_id = t.id
          and v.tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid where t.id = patient.tenant_id)`,
      ],
      ['a case', `case when current_setting('app.tenant_id', true) = '' then true else ${mine} end`],
    ] as const
  ).map(([hole, using]) => ({
    hole: `a policy: ${hole}`,
    breaks: policy(using),
    mends: canonical,
    finds: ['policy-open public.patient policy tenant'],
  })),
  {
    hole: 'a second policy that opens what the first closes',
    breaks: 'create policy support on patient for select using (true)',
    mends: 'drop policy support on patient',
    finds: ['policy-open public.patient policy support'],
  },
  {
    hole: 'rows may be moved to another tenant',
    breaks: policy(mine, 'true'),
    mends: canonical,
    finds: ['policy-open public.patient policy tenant'],
  },
  {
    hole: 'rows may be updated blindly',
    breaks: `drop policy tenant on patient;
      create policy tenant on patient for select using (${mine});
      create policy writes on patient for update using (true) with check (${mine})`,
    mends: `drop policy writes on patient; ${canonical}`,
    finds: ['policy-open public.patient policy writes'],
  },
  {
    hole: 'rows may be inserted for anybody',
    breaks: 'create policy inserts on patient for insert with check (true)',
    mends: 'drop policy inserts on patient',
    finds: ['policy-open public.patient policy inserts'],
  },
  {
    hole: 'a policy that asks a function the role may replace',
    breaks: `grant create on schema public to $app; set role $app;
      create function whose() returns uuid language sql stable as $$ select nullif(current_setting('app.tenant_id', true), '')::uuid $$;
      reset role; revoke create on schema public from $app; ${policy('tenant_id = whose()')}`,
    mends: `${canonical}; set role $app; drop function whose(); reset role`,
    finds: ['policy-open public.patient policy tenant'],
  },
  {
    hole: 'an equality of its own making',
    breaks: `create function alike(uuid, text) returns boolean language sql as $$ select $1::text = $2 or $2 = '' $$;
      create operator = (leftarg = uuid, rightarg = text, function = alike);
      ${policy(`tenant_id = current_setting('app.tenant_id', true)`)}`,
    mends: `${canonical}; drop operator = (uuid, text); drop function alike(uuid, text)`,
    finds: ['policy-open public.patient policy tenant'],
  },
  {
    hole: 'a membership that the role may write',
    breaks: `create table membership (user_id uuid not null, tenant_id uuid not null references tenant);
      alter table membership enable row level security; alter table membership force row level security;
      create policy own on membership using (user_id = nullif(current_setting('app.user_id', true), '')::uuid);
      grant select, insert on membership to $app;
      ${policy(`tenant_id in (select m.tenant_id from membership m where m.user_id = nullif(current_setting('app.user_id', true), '')::uuid)`)}`,
    mends: `${canonical}; drop table membership`,
    finds: ['policy-open public.membership policy own', 'policy-open public.patient policy tenant'],
  },
  {
    hole: 'a function whose argument is hidden by a column',
    breaks: `create table membership (user_id uuid not null, tenant_id uuid not null references tenant);
      create function is_member(tenant_id uuid) returns boolean language sql stable as $$ select exists (
        select from membership where tenant_id = tenant_id and user_id = nullif(current_setting('app.user_id', true), '')::uuid) $$;
      ${policy('is_member(tenant_id)')}`,
    mends: `${canonical}; drop function is_member(uuid); drop table membership`,
    finds: ['policy-open public.patient policy tenant'],
  },
  {
    hole: 'a policy that asks a function with a fall-back',
    breaks: `create function whose() returns uuid language plpgsql stable as
      $$ begin return current_setting('app.tenant_id')::uuid; exception when others then return '7b0e9b3e-3a0b-4d6f-9d5d-111111111111'; end $$;
      ${policy('tenant_id = whose()')}`,
    mends: `${canonical}; drop function whose()`,
    finds: ['policy-open public.patient policy tenant'],
  },
  {
    hole: 'a policy for a role that the application may become',
    breaks:
      'create role auditor_$app; grant auditor_$app to $app; create policy auditor on patient for select to auditor_$app using (true)',
    mends: 'drop policy auditor on patient; drop role auditor_$app',
    finds: ['policy-open public.patient policy auditor'],
    asAdmin: true,
  },
  // ---- keys
  {
    hole: 'a foreign key without the tenant',
    breaks: `alter table visit add constraint loose foreign key (patient_id) references patient (id)`,
    mends: 'alter table visit drop constraint loose',
    finds: ['foreign-key-without-tenant public.visit constraint loose'],
  },
  {
    hole: 'a cascade without the tenant',
    breaks: `alter table visit add constraint loose foreign key (patient_id) references patient (id) on delete cascade`,
    mends: 'alter table visit drop constraint loose',
    finds: ['cascade-without-tenant public.visit constraint loose'],
  },
  {
    hole: 'a cascade from a shared table that may be changed',
    breaks: `alter table patient add constraint loose foreign key (country) references country on delete cascade; grant delete on country to $app`,
    mends: 'alter table patient drop constraint loose; revoke delete on country from $app',
    finds: ['cascade-without-tenant public.patient constraint loose'],
  },
  {
    hole: 'a natural key that is unique over all tenants',
    breaks: 'alter table patient add constraint loose unique (mrn)',
    mends: 'alter table patient drop constraint loose',
    finds: ['unique-without-tenant public.patient index loose'],
  },
  {
    hole: 'the same as an expression, with the tenant only included',
    breaks: 'create unique index loose on patient (mrn, lower(name)) include (tenant_id)',
    mends: 'drop index loose',
    finds: ['unique-without-tenant public.patient index loose'],
  },
  {
    hole: 'a number that people know as the key',
    breaks: `create table invoice (number bigint primary key, tenant_id uuid not null); ${isolated('invoice')}`,
    mends: 'drop table invoice',
    finds: ['unique-without-tenant public.invoice index invoice_pkey'],
  },
  {
    hole: 'unique with no more of the tenant than that there is one',
    breaks: 'create unique index loose on patient ((tenant_id is null), mrn)',
    mends: 'drop index loose',
    finds: ['unique-without-tenant public.patient index loose'],
  },
  {
    hole: 'unique in one partition',
    breaks: 'create unique index loose on note_2026 (body)',
    mends: 'drop index loose',
    finds: ['unique-without-tenant public.note_2026 index loose'],
  },
  {
    hole: 'an exclusion of other tenants alone',
    breaks: `create extension btree_gist;
      alter table visit add constraint apart exclude using gist (tenant_id with <>, at with &&);
      alter table visit add constraint within exclude using gist (tenant_id with =, at with &&)`,
    mends: 'drop extension btree_gist cascade',
    finds: ['exclusion-without-tenant public.visit constraint apart'],
    asAdmin: true,
  },
  {
    hole: 'an exclusion over all tenants',
    breaks: 'alter table visit add constraint loose exclude using gist (at with &&)',
    mends: 'alter table visit drop constraint loose',
    finds: ['exclusion-without-tenant public.visit constraint loose'],
  },
  {
    hole: 'a foreign key whose triggers are off',
    breaks: 'alter table visit disable trigger all',
    mends: 'alter table visit enable trigger all',
    finds: [
      'foreign-key-off public.visit constraint visit_tenant_id_fkey',
      'foreign-key-off public.visit constraint visit_tenant_id_patient_id_fkey',
    ],
    asAdmin: true,
  },
  // ---- grants
  ...['truncate', 'references', 'trigger'].map((privilege) => ({
    hole: `${privilege} on a tenant table`,
    breaks: `grant ${privilege} on patient to $app`,
    mends: `revoke ${privilege} on patient from $app`,
    finds: ['grant-beyond-rows public.patient'],
  })),
  {
    hole: 'references by column, to everybody',
    breaks: 'grant references (id) on patient to public',
    mends: 'revoke references (id) on patient from public',
    finds: ['grant-beyond-rows public.patient'],
  },
  {
    hole: 'the table of tenants may be changed',
    breaks: 'grant update on tenant to $app',
    mends: 'revoke update on tenant from $app',
    finds: ['tenants-writable public.tenant'],
  },
  {
    hole: 'whatever is made next is open',
    breaks: 'alter default privileges in schema public grant select on tables to $app',
    mends: 'alter default privileges in schema public revoke select on tables from $app',
    finds: ['default-privileges owner in schema public'],
  },
  {
    hole: 'a sequence that counts for all',
    breaks: 'grant select on sequence visit_id_seq to $app',
    mends: 'revoke select on sequence visit_id_seq from $app',
    finds: ['sequence public.visit_id_seq'],
  },
  {
    hole: 'objects may be put before the real ones',
    breaks: 'grant create on schema public to $app',
    mends: 'revoke create on schema public from $app',
    finds: ['schema-create schema public'],
  },
  {
    hole: 'a large object that everybody reads',
    breaks: 'select lo_create(4711); grant select on large object 4711 to public',
    mends: 'select lo_unlink(4711)',
    finds: ['large-objects app'],
  },
  {
    hole: 'files outside of every table',
    breaks: `create table scan (id uuid primary key, tenant_id uuid not null, image oid not null); ${isolated('scan')}`,
    mends: 'drop table scan',
    finds: ['large-objects public.scan.image'],
  },
  {
    hole: 'large objects for everybody',
    breaks: `do $$ begin execute format('alter database %I set lo_compat_privileges = on', current_database()); end $$`,
    mends: `do $$ begin execute format('alter database %I reset lo_compat_privileges', current_database()); end $$`,
    finds: [expect.stringMatching(/^role-settings database foreign_/)],
    asAdmin: true,
  },
  {
    hole: 'connections to anywhere',
    breaks: 'create extension dblink',
    mends: 'drop extension dblink',
    finds: [
      'server-objects dblink(text)',
      'server-objects dblink_connect(text)',
      'server-objects dblink_exec(text)',
    ],
    asAdmin: true,
  },
  {
    hole: 'a tenant by default',
    breaks: `alter role $app set app.tenant_id = '7b0e9b3e-3a0b-4d6f-9d5d-111111111111'`,
    mends: 'alter role $app reset app.tenant_id',
    finds: ['role-settings role app'],
    asAdmin: true,
  },
  {
    hole: 'files of the server',
    breaks: 'grant execute on function pg_read_file(text) to $app',
    mends: 'revoke execute on function pg_read_file(text) from $app',
    finds: ['server-objects pg_read_file(text)'],
    asAdmin: true,
  },
  {
    hole: 'samples of all rows',
    breaks: 'grant select on pg_statistic to $app',
    mends: 'revoke select on pg_statistic from $app',
    finds: ['server-objects pg_statistic'],
    asAdmin: true,
  },
  {
    hole: 'schemas of its own',
    breaks: "do $$ begin execute format('grant create on database %I to $app', current_database()); end $$",
    mends: "do $$ begin execute format('revoke create on database %I from $app', current_database()); end $$",
    finds: [expect.stringMatching(/^schema-create database foreign_/)],
  },
  {
    hole: 'a restrictive policy that another role of the application escapes',
    breaks: `create role auditor_$app; grant auditor_$app to $app; grant select on patient to auditor_$app;
      drop policy tenant on patient; create policy everybody on patient using (true);
      create policy tenant on patient as restrictive to $app using (${mine})`,
    mends: `drop policy everybody on patient; ${canonical}; revoke select on patient from auditor_$app; drop role auditor_$app`,
    finds: ['policy-open public.patient policy everybody'],
    asAdmin: true,
  },
  // ---- roles
  {
    hole: 'a role past row-level security',
    breaks: 'alter role $app bypassrls',
    mends: 'alter role $app nobypassrls',
    finds: ['role-bypasses app'],
    asAdmin: true,
  },
  {
    hole: 'a superuser',
    breaks: 'alter role $app superuser',
    mends: 'alter role $app nosuperuser',
    finds: ['role-bypasses app'],
    asAdmin: true,
  },
  {
    hole: 'a member of the owner',
    // The owner is a member of the application's role to be able to try it, so that goes first.
    breaks: 'revoke $app from $owner; grant $owner to $app',
    mends: 'revoke $owner from $app; grant $app to $owner',
    finds: ['role-reaches app'],
    asAdmin: true,
  },
  {
    hole: 'a role that reads all data',
    breaks: 'grant pg_read_all_data to $app',
    mends: 'revoke pg_read_all_data from $app',
    finds: ['role-reaches app'],
    asAdmin: true,
  },
  {
    hole: 'a login of the application past row-level security',
    breaks: 'create role login_$app login bypassrls; grant $app to login_$app',
    mends: 'drop role login_$app',
    finds: ['login-bypasses login_app'],
    asAdmin: true,
  },
  {
    hole: 'a reporting role past row-level security',
    breaks: 'create role login_$app bypassrls; grant select on patient to login_$app',
    mends: 'revoke select on patient from login_$app; drop role login_$app',
    finds: ['bypassrls-with-grants login_app'],
    asAdmin: true,
  },
  {
    hole: 'somebody who logs in as the owner',
    breaks: 'create role login_$app login; grant $owner to login_$app',
    mends: 'drop role login_$app',
    finds: ['owner-members login_app'],
    asAdmin: true,
  },
  {
    hole: 'a table that the role owns',
    breaks: 'alter table visit owner to $app',
    mends: 'alter table visit owner to $owner',
    finds: ['role-owns app'],
    asAdmin: true,
  },
  // ---- code
  {
    hole: 'a view that runs as its owner',
    breaks: 'alter view open_visit reset (security_invoker)',
    mends: 'alter view open_visit set (security_invoker = true)',
    finds: ['view-runs-as-owner public.open_visit'],
  },
  {
    hole: 'a view of a view',
    breaks: 'create view rooms as select room from open_visit; grant select on rooms to $app',
    mends: 'drop view rooms',
    finds: ['view-runs-as-owner public.rooms'],
  },
  {
    hole: 'a materialised view',
    breaks: 'create materialized view census as select count(*) from patient; grant select on census to $app',
    mends: 'drop materialized view census',
    finds: ['materialized-view public.census'],
  },
  {
    hole: 'a function that runs as its owner, open to everybody by default',
    breaks: `create function all_patients() returns setof patient language sql security definer as 'select * from patient'`,
    mends: 'drop function all_patients()',
    finds: ['definer-function all_patients()'],
  },
  {
    hole: 'an aggregate over such a function, which nobody may call by itself',
    breaks: `create function names(text, int) returns text language sql security definer set search_path = public, pg_temp
        as $$ select string_agg(name, ',') from patient $$;
      revoke execute on function names(text, int) from public; create aggregate names(int) (sfunc = names, stype = text)`,
    mends: 'drop aggregate names(int); drop function names(text, int)',
    finds: ['definer-function names(text,integer)'],
  },
  {
    hole: 'a trigger on a view that runs as its owner',
    breaks: `create function write_through() returns trigger language plpgsql security definer as 'begin return null; end';
      create trigger through instead of insert on open_visit for each row execute function write_through();
      grant insert on open_visit to $app`,
    mends:
      'drop trigger through on open_visit; drop function write_through(); revoke insert on open_visit from $app',
    finds: ['definer-trigger public.open_visit trigger through'],
  },
  {
    hole: 'a function with a tenant of its own',
    breaks: `create function as_other() returns bigint language sql set app.tenant_id = '7b0e9b3e-3a0b-4d6f-9d5d-111111111111' as 'select count(*) from patient'`,
    mends: 'drop function as_other()',
    finds: ['function-sets-tenant as_other()'],
    asAdmin: true,
  },
  {
    hole: 'a function that sets the tenant for the session',
    breaks: `create function enter(t uuid) returns void language sql as $$ select set_config('app.tenant_id', t::text, false) $$`,
    mends: 'drop function enter(uuid)',
    finds: ['function-sets-tenant enter(uuid)'],
  },
  {
    hole: 'a function that claims to be leakproof',
    breaks: `create function peek(t text) returns bool language plpgsql leakproof cost 0.0001 as 'begin raise notice ''%'', t; return true; end'`,
    mends: 'drop function peek(text)',
    finds: ['leakproof peek(text)'],
    asAdmin: true,
  },
  {
    hole: 'a trigger that works past every policy and asks for no tenant',
    breaks: `create function spread() returns trigger language plpgsql security definer
        as 'begin update public.patient set name = new.name where mrn = new.mrn; return new; end';
      create trigger spread after insert on patient for each row execute function spread()`,
    mends: 'drop function spread() cascade',
    finds: ['definer-trigger public.patient trigger spread'],
    asAdmin: true,
  },
  {
    hole: 'a trigger that runs as its owner in a search path of the caller’s',
    breaks: `create function noted() returns trigger language plpgsql security definer as 'begin insert into country values (new.mrn, new.mrn); return new; end';
      create trigger noted after insert on patient for each row execute function noted()`,
    mends: 'drop function noted() cascade',
    finds: ['definer-trigger public.patient trigger noted'],
  },
  {
    hole: 'a trigger that sends rows to whoever listens',
    breaks: `create function tell() returns trigger language plpgsql as $$ begin perform pg_notify('patient', row_to_json(new)::text); return new; end $$;
      create trigger tell after insert on patient for each row execute function tell()`,
    mends: 'drop function tell() cascade',
    finds: ['notify public.patient trigger tell'],
  },
  {
    hole: 'an event trigger that opens what is made',
    breaks: `create function opened() returns event_trigger language plpgsql as $$ declare made record; begin
        for made in select * from pg_event_trigger_ddl_commands() where command_tag = 'CREATE TABLE' loop
          execute format('grant select on %s to public', made.object_identity); end loop; end $$;
      create event trigger opened on ddl_command_end execute function opened()`,
    mends: 'drop event trigger opened; drop function opened()',
    finds: ['event-trigger opened'],
    asAdmin: true,
  },
  {
    hole: 'a rule',
    breaks: `create rule copy as on insert to patient do also insert into country values (new.name, new.mrn)`,
    mends: 'drop rule copy on patient',
    finds: ['rule public.patient rule copy'],
  },
  // ---- exits
  {
    hole: 'a publication',
    breaks: 'create publication everything for table patient',
    mends: 'drop publication everything',
    finds: ['publication everything'],
  },
  {
    hole: 'a publication of all tables, and of those to come',
    breaks: 'create publication everything for all tables',
    mends: 'drop publication everything',
    finds: ['publication everything'],
    asAdmin: true,
  },
  {
    hole: 'a foreign table',
    breaks: `create foreign data wrapper far; create server far foreign data wrapper far;
      create foreign table far_patient (tenant_id uuid, name text) server far; grant select on far_patient to $app`,
    mends: 'drop foreign data wrapper far cascade',
    finds: ['foreign-table public.far_patient'],
    asAdmin: true,
  },
  {
    hole: 'a partition elsewhere',
    breaks: `create foreign data wrapper far; create server far foreign data wrapper far;
      create table log (tenant_id uuid not null, day date) partition by range (day); ${isolated('log')}
      create foreign table log_far partition of log for values from ('2026-01-01') to ('2027-01-01') server far`,
    mends: 'drop table log; drop foreign data wrapper far cascade',
    finds: ['foreign-table public.log_far'],
    asAdmin: true,
  },
  {
    hole: 'a foreign server',
    breaks:
      'create foreign data wrapper far; create server far foreign data wrapper far; grant usage on foreign server far to $app',
    mends: 'drop foreign data wrapper far cascade',
    finds: ['foreign-server far'],
    asAdmin: true,
  },
]

test('a schema that keeps tenants apart has no finding', async () => {
  expect((await database.check()).findings).toEqual([])
})

test('what is written without a word of whose it is, is a warning; what is only looked up is none', async () => {
  await database.owner.query(`create table job (id uuid primary key, payload jsonb); create table region (id int primary key,
    country text references country, name text); grant select, insert on job, region to $app`)
  try {
    expect((await database.check()).findings).toMatchObject([
      { id: 'isolation/tenant-column-missing', severity: 'warning', object: 'public.job' },
    ])
  } finally {
    await database.owner.query('drop table job, region')
  }
})

test.each(HOLES)('$hole', async ({ breaks, mends, finds, asAdmin }) => {
  const hand = asAdmin ? database.admin : database.owner
  await hand.query(breaks)
  try {
    expect(await database.holes()).toEqual(finds)
  } finally {
    await hand.query(mends)
  }
  expect((await database.check()).findings).toEqual([])
})
