import { describe, expect, test } from 'vitest'
import type { IsolationOptions } from '../../src/domain/isolation/check.ts'
import { useForeignDatabase } from '../support/isolation.ts'

const secured = (...tables: string[]) =>
  tables
    .map(
      (table) =>
        `alter table ${table} enable row level security; alter table ${table} force row level security;`,
    )
    .join('\n')
const granted = (...tables: string[]) =>
  `grant select, insert, update, delete on ${tables.join(', ')} to $app;`

/** Schemas that keep tenants apart, each in a style of its own. */
const SCHEMAS: { style: string; sql: string; options?: Partial<IsolationOptions> }[] = [
  {
    style: 'bigint tenants, serial keys, its own names, a bare setting',
    options: { tenantColumn: 'org_id' },
    sql: `
      create table org (id bigserial primary key, name text not null unique);
      create table project (
        id bigserial primary key,
        org_id bigint not null references org on delete cascade,
        name varchar(40) not null,
        budget numeric(10, 2) not null default 0 check (budget >= 0),
        unique (org_id, id), unique (org_id, name)
      );
      create table task (
        id bigserial primary key,
        org_id bigint not null,
        project_id bigint not null,
        parent_id bigint,
        state text not null check (state in ('open', 'done')),
        foreign key (org_id, project_id) references project (org_id, id) on delete cascade,
        unique (org_id, id), foreign key (org_id, parent_id) references task (org_id, id)
      );
      ${secured('project', 'task')}
      create policy org on project using (org_id = current_setting('app.org')::bigint);
      create policy org on task using (org_id = current_setting('app.org', true)::bigint);
      grant select on org to $app; ${granted('project', 'task')}
      grant usage on sequence project_id_seq, task_id_seq to $app;`,
  },
  {
    style: 'text tenants and text keys, policies by command and role',
    options: { tenantColumn: 'tenant' },
    sql: `
      create type channel as enum ('sms', 'push');
      create domain phone as text check (value ~ '^[+][0-9]{7,15}$');
      create table message (
        id text primary key default md5(random()::text),
        tenant text not null,
        via channel not null,
        recipient phone not null,
        attributes jsonb not null default '{}',
        tags text[] not null,
        sent_at timestamptz,
        size int generated always as (length(recipient)) stored
      );
      ${secured('message')}
      create role support_$app;
      create policy r on message for select to $app using (tenant = current_setting('app.tenant', true));
      create policy a on message for insert to $app with check (tenant = current_setting('app.tenant', true));
      create policy w on message for update to $app using (tenant = current_setting('app.tenant', true));
      create policy d on message for delete to $app using (current_setting('app.tenant', true) = tenant);
      create policy support on message for select to support_$app using (true);
      create policy owner on message to current_user using (true);
      grant select on message to support_$app;
      ${granted('message')}`,
  },
  {
    style: 'partitions by day, by hash and by tenant',
    sql: `
      create table event (
        id uuid not null default gen_random_uuid(), tenant_id uuid not null, day date not null, body text,
        primary key (id, day)
      ) partition by range (day);
      create table event_1 partition of event for values from ('2026-01-01') to ('2026-07-01');
      create table event_2 partition of event for values from ('2026-07-01') to ('2027-01-01');
      create table reading (tenant_id uuid not null, id bigint generated always as identity, value float8,
        primary key (tenant_id, id)) partition by hash (tenant_id);
      create table reading_0 partition of reading for values with (modulus 2, remainder 0);
      create table reading_1 partition of reading for values with (modulus 2, remainder 1);
      create table big (tenant_id uuid not null, x int) partition by list (tenant_id);
      create table big_a partition of big for values in ('0f8fad5b-d9cb-469f-a165-70867728950e');
      create table big_b partition of big for values in ('7c9e6679-7425-40de-944b-e07fc1f90ae7');
      ${secured('event', 'event_1', 'event_2', 'reading', 'reading_0', 'reading_1', 'big', 'big_a', 'big_b')}
      create policy t on event using (tenant_id = (select current_setting('app.tenant_id', true)::uuid));
      create policy t on reading using (tenant_id::text = current_setting('app.tenant_id', true));
      create policy t on big using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
      create policy t on big_a using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
      ${granted('event', 'reading', 'big', 'big_a')}`,
  },
  {
    style: 'inheritance, a plain trigger, quoted names',
    options: { tenantColumn: 'tenantId' },
    sql: `
      create schema "Crm";
      grant usage on schema "Crm" to $app;
      create table "Crm"."Contact" ("Id" uuid primary key default gen_random_uuid(), "tenantId" uuid not null, "Full name" text not null);
      create table "Crm"."Lead" ("Score" smallint not null check ("Score" between 1 and 5)) inherits ("Crm"."Contact");
      ${secured('"Crm"."Contact"', '"Crm"."Lead"')}
      create policy "By tenant" on "Crm"."Contact" using ("tenantId" = (select nullif(current_setting('crm.tenant', true), '')::uuid));
      create policy "By tenant" on "Crm"."Lead" using ("tenantId" = (select nullif(current_setting('crm.tenant', true), '')::uuid));
      create function "Crm".tidy() returns trigger language plpgsql as $$ begin new."Full name" := trim(new."Full name"); return new; end $$;
      create trigger tidy before insert or update on "Crm"."Lead" for each row execute function "Crm".tidy();
      ${granted('"Crm"."Contact"', '"Crm"."Lead"')}`,
  },
  {
    style: 'restrictive with permissive, more conditions, a table of tenants under its own policy',
    sql: `
      create table tenant (id uuid primary key, name text not null);
      create table document (id uuid primary key, tenant_id uuid not null references tenant, owner_id uuid, deleted_at timestamptz,
        constraint sane check (deleted_at is null or owner_id is not null));
      create table draft (id uuid primary key, tenant_id uuid not null references tenant, owner_id uuid not null);
      ${secured('tenant', 'document', 'draft')}
      create policy self on tenant using (id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      create policy everything on document using (true) with check (true);
      create policy tenant on document as restrictive using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      create policy mine on draft using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
        and (owner_id = nullif(current_setting('app.user_id', true), '')::uuid or current_setting('app.user_id', true) is null));
      grant select, update on tenant to $app; ${granted('document', 'draft')}`,
  },
  {
    style: 'policies that ask functions of the schema',
    sql: `
      create schema private;
      create function private.tenant() returns uuid language sql stable
        as $$ select nullif(current_setting('app.tenant_id', true), '')::uuid $$;
      create function private.tenant_or_fail() returns uuid language plpgsql stable as $$
        declare found text := current_setting('app.tenant_id', true);
        begin
          if found is null or found = '' then raise exception 'no tenant is set'; end if;
          return found::uuid;
        end $$;
      create function private.is_mine(whose uuid) returns boolean language sql stable
        as $$ select whose = private.tenant() $$;
      grant usage on schema private to $app;
      create table a (id uuid primary key, tenant_id uuid not null);
      create table b (id uuid primary key, tenant_id uuid not null);
      create table c (id uuid primary key, tenant_id uuid not null);
      ${secured('a', 'b', 'c')}
      create policy t on a using (tenant_id = private.tenant());
      create policy t on b using (tenant_id = (select private.tenant_or_fail()));
      create policy t on c using (private.is_mine(tenant_id));
      ${granted('a', 'b', 'c')}`,
  },
  {
    style: 'claims of a token, as PostgREST and Supabase hand them on',
    options: { tenantColumn: 'org_id' },
    sql: `
      create schema auth;
      grant usage on schema auth to $app;
      create function auth.jwt() returns jsonb language sql stable as $$
        select coalesce(nullif(current_setting('request.jwt.claim', true), ''), nullif(current_setting('request.jwt.claims', true), ''))::jsonb $$;
      create function auth.org() returns uuid language sql stable as $$
        select coalesce(nullif(current_setting('request.jwt.claim.org_id', true), ''),
          (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'org_id'))::uuid $$;
      create table todo (id bigint generated by default as identity primary key, org_id uuid not null, task text check (char_length(task) > 3));
      create table list (id bigint generated by default as identity primary key, org_id uuid not null);
      create table item (id bigint generated by default as identity primary key, org_id uuid not null);
      ${secured('todo', 'list', 'item')}
      create policy "Their own todos. " on todo using ((select auth.org()) = org_id);
      create policy p on list using (org_id = ((select auth.jwt()) ->> 'org_id')::uuid);
      create policy p on item using (org_id = (current_setting('request.jwt.claims', true)::json ->> 'org_id')::uuid);
      ${granted('todo', 'list', 'item')}`,
  },
  {
    style: 'a field of a field of a JSON setting, which was named',
    options: { tenantColumn: 'org_id', tenantSetting: 'hasura.user' },
    sql: `
      create table thing (id uuid primary key default gen_random_uuid(), org_id bigint not null);
      ${secured('thing')}
      create policy p on thing using (org_id = (nullif(current_setting('hasura.user', true), '')::jsonb -> 'claims' ->> 'x-hasura-org-id')::bigint);
      ${granted('thing')}`,
  },
  {
    style: 'the equality written otherwise, a user compared beside it, types of its own',
    sql: `
      create domain tenant_ref as uuid;
      create function tenant() returns uuid language sql stable as $$ select nullif(current_setting('app.tenant_id', true), '')::uuid $$;
      create function tenant(text) returns text language sql stable as 'select $1';
      create table a (id uuid primary key, tenant_id uuid not null);
      create table b (id uuid primary key, tenant_id uuid not null);
      create table c (id uuid primary key, tenant_id uuid not null);
      create table d (id uuid primary key, tenant_id tenant_ref not null);
      create table e (id uuid primary key, tenant_id uuid not null, user_id uuid not null);
      create table f (id uuid primary key, tenant_id uuid not null);
      create table h (tenant_id uuid not null, id int) partition by hash (tenant_id);
      create table h_0 partition of h for values with (modulus 2, remainder 0);
      create table h_1 partition of h for values with (modulus 2, remainder 1);
      ${secured('a', 'b', 'c', 'd', 'e', 'f', 'h', 'h_0', 'h_1')}
      create policy p on a using (tenant_id in (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      create policy p on b using (tenant_id = any (array[nullif(current_setting('app.tenant_id', true), '')::uuid]));
      create policy p on c using (case when coalesce(current_setting('app.tenant_id', true), '') = '' then false
        else tenant_id = current_setting('app.tenant_id', true)::uuid end);
      create policy p on d using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::tenant_ref);
      create policy p on e using (user_id = nullif(current_setting('app.user_id', true), '')::uuid
        and tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
      create policy p on f using (tenant_id = tenant());
      create policy p on h using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
      ${granted('a', 'b', 'c', 'd', 'e', 'f', 'h')}`,
  },
  {
    style: 'a user first in every policy, a char(36) for a tenant',
    sql: `
      create table a (id uuid primary key, tenant_id char(36) not null, user_id uuid not null);
      ${secured('a')}
      create policy p on a using (user_id = nullif(current_setting('app.user_id', true), '')::uuid
        and tenant_id = current_setting('app.tenant_id', true)::char(36));
      ${granted('a')}`,
  },
  {
    style: 'children that their parents confine, and a table that joins two',
    sql: `
      create table invoice (id uuid primary key default gen_random_uuid(), tenant_id uuid not null);
      create table line (id bigint generated by default as identity primary key, invoice_id uuid not null references invoice on delete cascade,
        no int not null, unique (invoice_id, no));
      create table discount (line_id bigint not null references line, percent int not null check (percent > 0 and percent <= 100));
      create table label (id uuid primary key default gen_random_uuid(), tenant_id uuid not null, unique (tenant_id, id));
      create table invoice_label (invoice_id uuid not null references invoice, label_id uuid not null references label,
        primary key (invoice_id, label_id));
      ${secured('invoice', 'line', 'discount', 'label', 'invoice_label')}
      create policy t on invoice using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      create policy t on label using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      create policy t on line using (exists (select 1 from invoice i where i.id = line.invoice_id));
      create policy t on discount using (line_id in (select id from line));
      create policy t on invoice_label using (exists (select from invoice i where i.id = invoice_id
          and i.tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid))
        and exists (select from label where label.id = label_id));
      ${granted('invoice', 'line', 'discount', 'label', 'invoice_label')}`,
  },
  {
    style:
      'shared tables beside it: look-ups, a view and a materialised view of them, definer functions kept back',
    sql: `
      create table country (code char(2) primary key, name text not null unique);
      create table rate (currency text primary key, per_usd numeric not null, at timestamptz not null default now());
      insert into country values ('AF', 'Afghanistan'); insert into rate values ('AFN', 70);
      create materialized view rates as select currency from rate;
      create view countries as select code from country;
      create table clinic (id uuid primary key, tenant_id uuid not null, country char(2) not null references country, opened date not null,
        closes date not null check (closes > opened), exclude using btree (tenant_id with =, country with =));
      create view open_clinic with (security_invoker) as select id, country from clinic;
      create function count_all() returns bigint language sql security definer set search_path = pg_catalog, pg_temp
        as 'select count(*) from public.clinic';
      revoke execute on function count_all() from public;
      create function stamp() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp
        as 'begin return new; end';
      ${secured('clinic')}
      create policy t on clinic using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      grant select on country, rate, rates, countries, open_clinic to $app; ${granted('clinic')}
      alter default privileges in schema public grant usage on sequences to $app;`,
  },
  {
    style: 'a table for somebody else, and columns granted one by one',
    sql: `
      create table quarantine (id bigint generated always as identity primary key, tenant_id text, payload bytea);
      create table account (id uuid primary key default gen_random_uuid(), tenant_id uuid not null, email text not null,
        secret text, unique (tenant_id, email));
      create unique index account_email on account (tenant_id, lower(email));
      ${secured('account', 'quarantine')}
      create policy t on account using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
      grant select (id, tenant_id, email), insert (tenant_id, email), update (email) on account to $app;`,
  },
  {
    style: 'tenants by membership: the setting is a user, who may invite others to their own',
    sql: `
      create schema private;
      grant usage on schema private to $app;
      create table tenant (id uuid primary key);
      create table person (id uuid primary key, email text not null);
      create table membership (user_id uuid not null references person, tenant_id uuid not null references tenant,
        role text not null default 'member', primary key (user_id, tenant_id));
      create function private.mine() returns setof uuid language sql stable security definer set search_path = '' as $$
        select tenant_id from public.membership where user_id = nullif(current_setting('app.user_id', true), '')::uuid $$;
      create function private.is_admin(t uuid) returns boolean language sql stable security definer set search_path = '' as $$
        select exists (select from public.membership m where m.tenant_id = t and m.role = 'admin'
          and m.user_id = nullif(current_setting('app.user_id', true), '')::uuid) $$;
      create table document (id uuid primary key default gen_random_uuid(), tenant_id uuid not null references tenant);
      create table page (id uuid primary key default gen_random_uuid(), document_id uuid not null references document);
      create table note (id uuid primary key default gen_random_uuid(), tenant_id uuid not null references tenant);
      create table task (id uuid primary key default gen_random_uuid(), tenant_id uuid not null references tenant);
      ${secured('membership', 'document', 'page', 'note', 'task')}
      create policy own on membership for select using (user_id = nullif(current_setting('app.user_id', true), '')::uuid);
      create policy invite on membership for insert with check (private.is_admin(tenant_id));
      create policy t on document using (tenant_id in (select private.mine()));
      create policy t on page using (exists (select from document d where d.id = page.document_id));
      create policy t on note using (tenant_id in (select m.tenant_id from membership m
        where m.user_id = nullif(current_setting('app.user_id', true), '')::uuid));
      create policy t on task using (exists (select from membership m join person p on p.id = m.user_id
        where m.tenant_id = task.tenant_id and m.user_id = nullif(current_setting('app.user_id', true), '')::uuid));
      grant select, insert on membership to $app; ${granted('document', 'page', 'note', 'task')}`,
  },
  {
    style: 'the equality in other words, a tenant by its slug in small letters, a list of tenants for each',
    sql: `
      create table a (id uuid primary key default gen_random_uuid(), tenant_id text not null);
      create table b (id uuid primary key default gen_random_uuid(), tenant_id text collate "C" not null);
      create table c (id uuid primary key default gen_random_uuid(), tenant_id text not null);
      create table d (id uuid primary key default gen_random_uuid(), tenant_id text not null);
      create table e (id uuid primary key default gen_random_uuid(), tenant_id text not null);
      ${secured('a', 'b', 'c', 'd', 'e')}
      create policy p on a using (tenant_id = lower(trim(current_setting('app.tenant_id', true))));
      create policy p on b using (tenant_id = current_setting('APP.Tenant_ID', true) collate "C");
      create policy p on c using (not (tenant_id <> current_setting('app.tenant_id', true)));
      create policy p on d using ((tenant_id = current_setting('app.tenant_id', true)) is true);
      create policy p on e using (tenant_id = any (string_to_array(nullif(current_setting('app.tenant_id', true), ''), ',')));
      ${granted('a', 'b', 'c', 'd', 'e')}`,
  },
  {
    style: 'one claim a setting, a claim of the application’s own, by its path',
    sql: `
      create schema auth;
      grant usage on schema auth to $app;
      create function auth.jwt() returns jsonb language sql stable as $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
      create table a (id uuid primary key default gen_random_uuid(), tenant_id uuid not null);
      create table b (id uuid primary key default gen_random_uuid(), tenant_id uuid not null);
      create table c (id uuid primary key default gen_random_uuid(), tenant_id uuid not null);
      ${secured('a', 'b', 'c')}
      create policy p on a using (tenant_id = (auth.jwt() -> 'app_metadata' ->> 'tenant_id')::uuid);
      create policy p on b using (tenant_id = (auth.jwt() #>> '{app_metadata,tenant_id}')::uuid);
      create policy p on c using (tenant_id = jsonb_extract_path_text(auth.jwt(), 'app_metadata', 'tenant_id')::uuid);
      ${granted('a', 'b', 'c')}`,
  },
  {
    style: 'old claims of PostgREST, one a setting',
    sql: `
      create table a (id uuid primary key default gen_random_uuid(), tenant_id uuid not null);
      ${secured('a')}
      create policy p on a using (tenant_id = nullif(current_setting('request.jwt.claim.tenant_id', true), '')::uuid);
      ${granted('a')}`,
  },
  {
    style:
      'what nobody owns beside it: tags that are referenced, locks, rates, a table of tenants without a key to it',
    sql: `
      create table tenant (tenant_id uuid primary key, name text not null);
      create table lock (name text primary key, held_until timestamptz);
      create table rate (base char(3), quote char(3), at date, rate numeric, primary key (base, quote, at));
      create table tag (id serial primary key, name text not null unique);
      create table thing (seq bigserial unique, tenant_id uuid not null, id uuid not null default gen_random_uuid(),
        tag_id int references tag, main uuid, primary key (tenant_id, id));
      create table part (tenant_id uuid not null, id uuid not null default gen_random_uuid(), thing uuid not null,
        primary key (tenant_id, id), foreign key (tenant_id, thing) references thing (tenant_id, id));
      alter table thing add foreign key (tenant_id, main) references part (tenant_id, id) deferrable initially deferred;
      create table history (id bigint generated always as identity primary key, tenant_id uuid not null, table_oid oid not null, row jsonb);
      create function remember() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
        begin insert into public.history (tenant_id, table_oid, row) values (new.tenant_id, tg_relid, to_jsonb(new));
          perform pg_notify('thing', new.id::text); return new; end $$;
      create trigger remember after insert or update on thing for each row execute function remember();
      create function whoami() returns text language sql stable security definer set search_path = pg_catalog as $$
        select nullif(current_setting('app.tenant_id', true), '') $$;
      ${secured('thing', 'part', 'history')}
      create policy t on thing using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
      create policy t on part using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
      create policy t on history using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
      grant select on tenant, history to $app; grant usage on sequence tag_id_seq, thing_seq_seq to $app;
      grant select, insert on tag to $app; ${granted('lock', 'rate', 'thing', 'part')}`,
  },
]

describe.each(SCHEMAS)('$style', ({ sql, options = {} }) => {
  const database = useForeignDatabase(sql)

  test('has no finding, by the catalogs and by trying', async () => {
    const { findings, facts } = await database.check({
      ...options,
      attemptsOn: { copyOf: database.ownerUrl },
    })
    expect(findings).toEqual([])
    expect(facts?.attempts).toMatch(/^(\d+) in (\d+) of \2 tables that the role reaches/)
  })
})
