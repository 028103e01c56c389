import { openDatabase } from '../src/adapters/postgres/client.ts'
import { checkIsolation } from '../src/domain/isolation/check.ts'
import { openSandboxFolder } from '../src/sandbox/folder.ts'
import { startPostgres } from '../src/sandbox/servers/postgres.ts'
import { type Measurement, median, reaches } from './measurement.ts'

const TABLES = 300
const ROUNDS = 5

/**
 * `isolation check` on 300 tenant tables, as the owner: the catalogs alone, against one sequential read of the catalog rows
 * that it judges; and the whole check with its attempts on a copy of the schema.
 */
export async function run(): Promise<Measurement[]> {
  await using folder = await openSandboxFolder()
  const postgres = await startPostgres({ folder })
  const { ownerUrl } = await postgres.createDatabase()
  await using db = openDatabase({ url: ownerUrl, maxConnections: 3 })
  await db.query(SCHEMA)
  const options = { tenantColumn: 'tenant_id', role: 'bench_app', schemas: [] }
  const timesMs = { read: [] as number[], catalogs: [] as number[], whole: [] as number[] }
  let attempts = ''
  for (let round = 0; round < ROUNDS; round++) {
    timesMs.read.push(await timed(() => db.query(READ_ONCE)))
    timesMs.catalogs.push(await timed(() => checkIsolation({ db }, { ...options, attemptsOn: 'nothing' })))
    timesMs.whole.push(
      await timed(async () => {
        const { findings, facts } = await checkIsolation(
          { db },
          { ...options, attemptsOn: { copyOf: ownerUrl } },
        )
        if (findings.length > 0)
          throw new Error(`the bench's schema has findings: ${JSON.stringify(findings[0])}`)
        attempts = String(facts?.attempts)
      }),
    )
  }
  const base = median(timesMs.read)
  const measured = (name: string, ms: number, target: string | null): Measurement => ({
    bench: 'isolation',
    case: name,
    value: Math.round(ms),
    unit: 'ms',
    against: name === READ ? null : READ,
    ratio: name === READ ? null : Math.round((ms / base) * 10) / 10,
    target,
    ok: target === null ? null : reaches(ms, target),
  })
  return [
    measured(READ, base, null),
    measured(`catalogs of ${TABLES} tables`, median(timesMs.catalogs), '<= 1000'),
    measured(`whole check: ${attempts}`, median(timesMs.whole), '<= 5000'),
  ]
}

const READ = 'one read of the catalog rows'

// Every row once, as text, so that none is left out by an index or a projection.
const READ_ONCE = [
  'class',
  'attribute',
  'policy',
  'constraint',
  'index',
  'proc',
  'depend',
  'trigger',
  'attrdef',
]
  .map((name) => `select sum(length(one::text)) from pg_${name} one`)
  .join(' union all ')

const SCHEMA = `
  create role bench_app nologin;
  grant bench_app to current_user;
  create table tenant (id uuid primary key, name text not null);
  grant select on tenant to bench_app;
  create function touch() returns trigger language plpgsql as 'begin new.at := now(); return new; end';
  do $$ begin
    for i in 1..${TABLES} loop
      execute format($sql$
        create table t%1$s (
          id uuid primary key default gen_random_uuid(),
          tenant_id uuid not null references tenant,
          parent_id uuid not null,
          name text not null check (length(name) > 0),
          state text not null check (state in ('open', 'closed')),
          amount_minor bigint not null default 0 check (amount_minor >= 0),
          at timestamptz not null default now(),
          note jsonb,
          unique (tenant_id, id),
          unique (tenant_id, name)
        );
        create trigger touch before update on t%1$s for each row execute function touch();
        alter table t%1$s enable row level security;
        alter table t%1$s force row level security;
        create policy tenant on t%1$s to bench_app
          using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
        grant select, insert, update, delete on t%1$s to bench_app;
      $sql$, i);
      if i %% 10 = 1 then execute format('alter table t%1$s drop column parent_id', i);
      else
        execute format('alter table t%1$s add foreign key (tenant_id, parent_id) references t%2$s (tenant_id, id)', i, i - 1);
      end if;
    end loop;
  end $$;
`.replaceAll('%%', '%')

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}
