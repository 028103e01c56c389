import { join } from 'node:path'
import { execa } from 'execa'
import { expect, inject, test } from 'vitest'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { packageRoot } from '../../src/package-root.ts'
import { useForeignDatabase } from '../support/isolation.ts'

const mine = `tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)`
const database = useForeignDatabase(`
  create table tenant (id uuid primary key, name text not null);
  create table patient (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null references tenant,
    mrn text not null,
    sex text not null check (sex in ('f', 'm', 'x')),
    born date not null check (born < '2026-01-01'),
    unique (tenant_id, id)
  );
  create table visit (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    patient_id uuid not null,
    minutes int not null check (minutes between 5 and 240),
    foreign key (tenant_id, patient_id) references patient (tenant_id, id) on delete cascade
  );
  create table total (tenant_id uuid not null, visits int not null);
  create table bulletin (text text);
  create table strange (id int primary key, tenant_id uuid not null, code text not null check (code ~ '^[A-Z]{2}[0-9]{5}$'));
  do $$ declare one text; begin
    foreach one in array array['patient', 'visit', 'total', 'strange'] loop
      execute format('alter table %I enable row level security', one);
      execute format('alter table %I force row level security', one);
      execute format('create policy tenant on %I using (${mine.replaceAll("'", "''")})', one);
      execute format('grant select, insert, update, delete on %I to $app', one);
    end loop;
  end $$;
  grant select on tenant, bulletin to $app;
`)

const copy = () => ({ attemptsOn: { copyOf: database.ownerUrl } })
/** Rule and table of what the attempts found, sorted. */
const live = async () => (await database.holes(copy())).filter((one) => one.startsWith('live-'))

test('rows are made for checks, keys and cascades; where none can be made it is told, and is no pass', async () => {
  const { findings, facts } = await database.check(copy())
  expect(findings).toMatchObject([
    {
      id: 'isolation/live-not-attempted',
      severity: 'info',
      evidence: { 'public.strange': expect.stringContaining('strange_code_check') },
    },
  ])
  expect(facts?.attempts).toMatch(/in 3 of 4 tables that the role reaches, on a copy of the schema$/)
})

test.each([
  {
    hole: 'no row-level security',
    breaks: 'alter table visit disable row level security',
    mends: 'alter table visit enable row level security',
    finds: ['copy', 'delete', 'insert', 'move', 'read', 'update'].map((how) => `live-${how} public.visit`),
  },
  {
    hole: 'open only while nothing was ever set',
    breaks: `create policy more on visit for select using (current_setting('app.tenant_id', true) is null)`,
    mends: 'drop policy more on visit',
    finds: ['live-read public.visit'],
  },
  {
    hole: 'open for an empty setting',
    breaks: `create policy more on visit for select using (current_setting('app.tenant_id', true) = '')`,
    mends: 'drop policy more on visit',
    finds: ['live-read public.visit'],
  },
  {
    hole: 'rows may be moved',
    breaks: `drop policy tenant on visit; create policy tenant on visit using (${mine}) with check (true);
      alter table visit drop constraint visit_tenant_id_patient_id_fkey`,
    mends: `drop policy tenant on visit; create policy tenant on visit using (${mine});
      alter table visit add foreign key (tenant_id, patient_id) references patient (tenant_id, id) on delete cascade`,
    finds: ['live-insert public.visit', 'live-move public.visit'],
  },
  {
    hole: 'updates that need not read',
    breaks: `create policy more on visit for update using (true) with check (true)`,
    mends: 'drop policy more on visit',
    finds: ['live-move public.visit', 'live-update public.visit'],
  },
  {
    hole: 'a key without the tenant, that cascades',
    breaks:
      'alter table visit drop constraint visit_tenant_id_patient_id_fkey; alter table visit add constraint loose foreign key (patient_id) references patient on delete cascade',
    mends:
      'alter table visit drop constraint loose; alter table visit add foreign key (tenant_id, patient_id) references patient (tenant_id, id) on delete cascade',
    finds: ['live-cascade public.visit', 'live-reference public.visit'],
  },
  {
    hole: 'a natural key over all tenants',
    breaks: 'create unique index loose on patient (mrn)',
    mends: 'drop index loose',
    finds: ['live-oracle public.patient'],
  },
  {
    hole: 'a trigger that writes for all tenants',
    breaks: `create function tally() returns trigger language plpgsql security definer as 'begin update total set visits = visits + 1; return new; end';
      create trigger tally before insert on visit for each row execute function tally();
      create policy owner on total to $owner using (true)`,
    mends: 'drop trigger tally on visit; drop function tally(); drop policy owner on total',
    finds: ['live-side-effect public.visit'],
  },
  {
    hole: 'a trigger that tells everybody',
    breaks: `create function tell() returns trigger language plpgsql security definer as 'begin insert into bulletin values (new.mrn); return new; end';
      create trigger tell before insert on patient for each row execute function tell()`,
    mends: 'drop trigger tell on patient; drop function tell()',
    finds: ['live-read public.bulletin'],
  },
  {
    hole: 'a view that runs as its owner',
    breaks: `create policy owner on patient to $owner using (true); create view sexes as select sex, count(*) from patient group by sex; grant select on sexes to $app`,
    mends: 'drop view sexes; drop policy owner on patient',
    finds: ['live-read public.sexes'],
  },
])('$hole', async ({ breaks, mends, finds }) => {
  await database.owner.query(breaks)
  try {
    expect(await live()).toEqual(finds)
  } finally {
    await database.owner.query(mends)
  }
})

test('on the database itself the same is tried among real rows, and nothing is left of it', async () => {
  const [a, b] = ['0f8fad5b-d9cb-469f-a165-70867728950e', '7c9e6679-7425-40de-944b-e07fc1f90ae7']
  await database.admin.query(`
    insert into tenant values ('${a}', 'a'), ('${b}', 'b');
    insert into patient (tenant_id, mrn, sex, born) values ('${a}', '1', 'f', '1990-01-01'), ('${b}', '2', 'm', '1990-01-01')`)
  const { facts } = await database.check({ attemptsOn: 'itself' })
  expect(facts?.attempts).toContain('on the database itself (rolled back)')
  expect(await database.holes({ attemptsOn: 'itself' })).toEqual([])
  await database.owner.query(
    `create policy more on patient for select using (current_setting('app.tenant_id', true) is null)`,
  )
  expect(await database.holes({ attemptsOn: 'itself' })).toEqual([
    'live-read public.patient',
    'policy-open public.patient policy more',
  ])
  await database.owner.query('drop policy more on patient')
  const rows = await database.admin.query(
    "select from patient union all select from visit union all select from tenant where name not in ('a', 'b')",
  )
  expect(rows).toHaveLength(2)
})

test('on the database itself the rows of children that their parents confine are tried, and only our own', async () => {
  await database.owner.query(`
    create table dose (id uuid primary key default gen_random_uuid(), visit_id uuid not null references visit);
    alter table dose enable row level security; alter table dose force row level security;
    create policy parent on dose using (exists (select from visit where visit.id = dose.visit_id));
    grant select, insert, update, delete on dose to $app`)
  try {
    expect(await database.holes({ attemptsOn: 'itself' })).toEqual([])
    await database.owner.query('create policy more on dose for delete using (true)')
    await database.owner.query('create policy most on dose for select using (true)')
    expect(await database.holes({ attemptsOn: 'itself' })).toEqual([
      'live-delete public.dose',
      'live-read public.dose',
      'tenant-column-missing public.dose',
    ])
  } finally {
    await database.owner.query('drop table dose')
  }
})

test('the command exits 1 and prints what CI reads; without a copy it warns and goes on', async () => {
  const runAs = (role: string, ...argv: string[]) =>
    execa(
      process.execPath,
      [join(packageRoot(), 'bin/run.js'), 'isolation', 'check', '--role', role, ...argv],
      {
        env: { TABIB_OWNER_DATABASE_URL: database.ownerUrl, TABIB_DATABASE_URL: database.ownerUrl },
        reject: false,
      },
    )
  const run = (...argv: string[]) => runAs(database.app, ...argv)
  const clean = await run('--json')
  expect(clean.exitCode).toBe(0)
  expect(JSON.parse(clean.stdout).result).toMatchObject({
    check: 'isolation check',
    counts: { failed: 0, infos: 1 },
  })
  await database.owner.query('alter table visit no force row level security')
  await using server = openDatabase({ url: inject('adminUrl'), maxConnections: 1 })
  await server.query(`alter role ${database.ownerName} nocreatedb`)
  try {
    const { exitCode, stdout } = await run('--output', 'github')
    expect(exitCode).toBe(1)
    expect(stdout).toMatch(/^::error title=isolation\/rls-not-forced::public\.visit: /)
    expect(stdout).toMatch(
      /^::warning title=isolation\/live-not-attempted::.*permission denied to create database/m,
    )
  } finally {
    await server.query(`alter role ${database.ownerName} createdb`)
    await database.owner.query('alter table visit force row level security')
  }
  const nonsense = await run('--tenant-column', 'nonsense')
  expect([nonsense.exitCode, nonsense.stderr]).toEqual([
    2,
    expect.stringContaining('Try: tabib isolation check --tenant-column tenant_id'),
  ])
  const elsewhere = await run('--schema', 'nowhere')
  expect([elsewhere.exitCode, elsewhere.stderr]).toEqual([
    2,
    expect.stringContaining('there is no schema nowhere'),
  ])
  const nobody = await runAs('nobody')
  expect([nobody.exitCode, nobody.stderr]).toEqual([2, expect.stringContaining('there is no role "nobody"')])
})

test('of one schema alone, rows are made although their tenants and parents lie in another', async () => {
  await database.owner.query(`
    create schema lab; grant usage on schema lab to $app;
    create table lab.sample (id uuid primary key default gen_random_uuid(), tenant_id uuid not null references tenant);
    create table lab.visit_sample (id uuid primary key default gen_random_uuid(), tenant_id uuid not null, patient_id uuid not null,
      foreign key (tenant_id, patient_id) references patient (tenant_id, id) on delete cascade);
    alter table lab.sample enable row level security; alter table lab.sample force row level security;
    alter table lab.visit_sample enable row level security; alter table lab.visit_sample force row level security;
    create policy tenant on lab.sample using (${mine}); create policy tenant on lab.visit_sample using (${mine});
    grant select, insert, update, delete on lab.sample, lab.visit_sample to $app`)
  try {
    const { findings, facts } = await database.check({ ...copy(), schemas: ['lab'] })
    expect(findings).toEqual([])
    expect(facts?.attempts).toMatch(/in 2 of 2 tables that the role reaches/)
  } finally {
    await database.owner.query('drop schema lab cascade')
  }
})

test('no copy of a schema is left behind', async () => {
  expect(
    await database.owner.query(
      `select from pg_database where datname like 'tabib\\_scratch\\_%' and pg_get_userbyid(datdba) = current_user`,
    ),
  ).toEqual([])
})
