import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

/** What one role may do with a relation, by grants of its own, of PUBLIC and of the roles it may become. */
export type Privilege =
  | 'SELECT'
  | 'INSERT'
  | 'UPDATE'
  | 'DELETE'
  | 'TRUNCATE'
  | 'REFERENCES'
  | 'TRIGGER'
  | 'USAGE'
  | 'EXECUTE'
  | 'CREATE'

export interface Column {
  number: number
  name: string
  /** As format_type prints it, and the type's own name without length. */
  type: string
  notNull: boolean
  hasDefault: boolean
}

export interface Relation {
  oid: number
  /** `schema.table`, quoted where it must be. */
  name: string
  schema: string
  bare: string
  kind: 'table' | 'partitioned' | 'view' | 'materialized' | 'foreign'
  owner: number
  rls: boolean
  forced: boolean
  /** A view with security_invoker. */
  invoker: boolean
  privileges: Set<Privilege>
  /** Every role with a grant on it. */
  grantees: number[]
  columns: Column[]
  /** Partitioned table or inheritance parent. */
  parents: number[]
}

export interface Policy {
  relation: number
  name: string
  permissive: boolean
  command: 'select' | 'insert' | 'update' | 'delete' | 'all'
  /** 0 is PUBLIC. */
  roles: number[]
  using: string | null
  check: string | null
}

export interface ForeignKey {
  name: string
  relation: number
  columns: number[]
  references: number
  referenced: number[]
  onDelete: string
  onUpdate: string
  /** False where its triggers were switched off. */
  enforced: boolean
}

export interface UniqueIndex {
  name: string
  relation: number
  primary: boolean
  /** Of an exclusion constraint, one for each key column; of a unique index none. */
  operators: string[]
  /** Column numbers of the key; 0 for an expression. */
  columns: number[]
  /** Each key column as text. */
  keys: string[]
}

export interface Role {
  oid: number
  name: string
  superuser: boolean
  bypassesRls: boolean
  login: boolean
  createRole: boolean
  replication: boolean
}

export interface Routine {
  oid: number
  /** With its argument types. */
  name: string
  schema: string
  bare: string
  owner: number
  definer: boolean
  leakproof: boolean
  language: string
  arguments: string[]
  /** How many arguments it takes, and how many of those may be left out. */
  takes: number
  defaults: number
  body: string
  config: string[]
  executable: boolean
  /** Aggregates that the role may call and that call it, whatever it is granted itself. */
  aggregates: string[]
  returnsTrigger: boolean
}

/** A trigger or rule that is in force, on a relation of the examined schemas; an event trigger is on none. */
export interface Attached {
  kind: 'trigger' | 'rule' | 'event trigger'
  name: string
  relation: number
  /** The function of a trigger. */
  routine: number
}

/** Everything of the catalogs that the rules judge, read in one snapshot. */
export interface Catalog {
  database: string
  versionNumber: number
  tenantColumn: string
  role: Role
  /** The checked role and every role it may become. */
  reach: Map<number, Role>
  roles: Map<number, Role>
  /** Login roles that may become the checked role. */
  logins: Role[]
  /** For the checked role and each that it may become: the roles whose privileges and policies it then has. */
  identities: Set<number>[]
  /** Of any role: who may become whom. */
  memberships: { member: number; of: number }[]
  relations: Map<number, Relation>
  policies: Policy[]
  foreignKeys: ForeignKey[]
  uniqueIndexes: UniqueIndex[]
  routines: Map<number, Routine>
  attached: Attached[]
  /** View -> relations and functions that its query reads. */
  reads: Map<number, number[]>
  sequences: { name: string; relation: number; privileges: Set<Privilege> }[]
  publications: { name: string; relation: number }[]
  /** Object -> what the checked role gets on whatever is made next. */
  defaultPrivileges: {
    owner: string
    schema: string | null
    kind: string
    grantee: string
    privileges: string[]
  }[]
  settings: { role: string | null; database: string | null; name: string; value: string }[]
  /** Where the checked role may create: `schema public`, `database app`; by default only as everybody could there before Postgres 15. */
  creatable: { name: string; byDefault: boolean }[]
  largeObjects: number
  /** Foreign servers, and the wrappers that they are made of. */
  servers: string[]
  /** Functions and tables of the server that tell of files, samples of all rows or passwords, and that the role may use. */
  serverObjects: string[]
  parameters: string[]
}

export interface Scope {
  tenantColumn: string
  role: string
  /** Empty: every schema that is not the system's. */
  schemas: readonly string[]
}

export const reachable = ({ privileges }: Relation): boolean =>
  (['SELECT', 'INSERT', 'UPDATE', 'DELETE'] as const).some((one) => privileges.has(one))

/** Of itself, or as a part of a table that can be. */
export function reached(catalog: Catalog, relation: Relation): boolean {
  return reachable(relation) || parentsOf(catalog, relation).some((parent) => reached(catalog, parent))
}

/** The same for rows that are put there or changed. */
export function writable(catalog: Catalog, relation: Relation): boolean {
  const may = (['INSERT', 'UPDATE'] as const).some((one) => relation.privileges.has(one))
  return may || parentsOf(catalog, relation).some((parent) => writable(catalog, parent))
}

export const parentsOf = ({ relations }: Catalog, { parents }: Relation): Relation[] =>
  parents.flatMap((oid) => relations.get(oid) ?? [])

/**
 * Reads what the rules judge. Needs no privilege beyond connecting: the catalogs are readable by everybody. Superuser
 * rights and inherited grants are not mixed in: privileges are those that were granted.
 *
 * @throws TabibError NOT_FOUND for a role or schema that does not exist.
 */
export async function readCatalog(db: Queryable, { tenantColumn, role, schemas }: Scope): Promise<Catalog> {
  const [server] = await db.query<{ database: string; version: number }>(
    `select current_database() as database, current_setting('server_version_num')::int as version`,
  )
  const versionNumber = server!.version
  const roles = new Map((await readRoles(db)).map((one) => [one.oid, one]))
  const checked = [...roles.values()].find(({ name }) => name === role)
  if (checked === undefined) throw new TabibError('NOT_FOUND', `there is no role "${role}"`)
  const memberships = await db.query<{ member: number; of: number }>(
    `select member::int8::float8 as member, roleid::int8::float8 as of from pg_auth_members
     ${versionNumber >= 160_000 ? 'where inherit_option or set_option or admin_option' : ''}`,
  )
  const rolesOf = (oid: number) => memberships.filter(({ member }) => member === oid).map((m) => m.of)
  const reach = closure(checked.oid, rolesOf)
  const all = await readSchemas(db)
  const scope = wantedSchemas(all, schemas).map(({ oid }) => oid)
  // What a role of the server's own, an owner or a superuser may do is told once, as the finding that it is reached.
  const owners = await db.query<{ owner: number }>(
    'select distinct relowner::int8::float8 as owner from pg_class where relnamespace = any($1)',
    [scope],
  )
  const isOwner = (oid: number) => owners.some(({ owner }) => owner === oid)
  // Whoever is a member of an owner is told as that, though the owner may become the role too, to try it.
  const members = closure(checked.oid, (oid) =>
    isOwner(oid) && oid !== checked.oid ? [] : memberships.filter((m) => m.of === oid).map((m) => m.member),
  )
  const powerful = (oid: number) => {
    const one = roles.get(oid)
    return one === undefined || one.superuser || one.bypassesRls || one.name.startsWith('pg_')
  }
  const grantees = [...reach].filter((oid) => oid === checked.oid || !(powerful(oid) || isOwner(oid)))
  const given: [number[], number[]] = [scope, [...grantees, 0]]
  // A policy or view of an examined schema may call a function of any other.
  const everywhere: [number[], number[]] = [all.map(({ oid }) => oid), given[1]]
  const usable = await usableSchemas(db, everywhere)
  const relations = new Map((await readRelations(db, given, tenantColumn)).map((one) => [one.oid, one]))
  const routines = new Map((await readRoutines(db, everywhere, versionNumber)).map((one) => [one.oid, one]))
  // A grant on what stands in a schema without usage opens nothing.
  for (const one of relations.values()) if (!usable.has(one.schema)) one.privileges.clear()
  for (const one of routines.values()) if (!usable.has(one.schema)) one.executable = false
  return {
    database: server!.database,
    versionNumber,
    tenantColumn,
    role: checked,
    reach: new Map([...reach].flatMap((oid) => (roles.has(oid) ? [[oid, roles.get(oid)!]] : []))),
    roles,
    logins: [...members].flatMap((oid) => (roles.get(oid)?.login ? [roles.get(oid)!] : [])),
    identities: grantees.map((oid) => closure(oid, rolesOf)),
    memberships,
    relations,
    routines,
    foreignKeys: await readForeignKeys(db, scope),
    uniqueIndexes: await readUniqueIndexes(db, scope),
    attached: await readAttached(db, scope),
    reads: await readViewSources(db, scope),
    sequences: await readSequences(db, given),
    publications: await readPublications(db),
    ...(await readSurroundings(db, { versionNumber, given })),
    // Last, since names come out with their schemas from here on: what only looks like one of the system's is told apart.
    policies: await readPolicies(db, scope),
  }
}

function closure(start: number, next: (oid: number) => number[]): Set<number> {
  const seen = new Set([start])
  for (const oid of seen) for (const other of next(oid)) seen.add(other)
  return seen
}

function readRoles(db: Queryable): Promise<Role[]> {
  return db.query<Role>(
    `select oid::int8::float8 as oid, rolname as name, rolsuper as superuser, rolbypassrls as "bypassesRls",
       rolcanlogin as login, rolcreaterole as "createRole", rolreplication as replication
     from pg_roles`,
  )
}

function readSchemas(db: Queryable): Promise<{ oid: number; name: string }[]> {
  return db.query<{ oid: number; name: string }>(
    `select oid::int8::float8 as oid, nspname as name from pg_namespace
     where nspname !~ '^pg_' and nspname <> 'information_schema' order by nspname`,
  )
}

/** @throws TabibError NOT_FOUND for a schema that does not exist. */
export async function assertSchemas(db: Queryable, schemas: readonly string[]): Promise<void> {
  wantedSchemas(await readSchemas(db), schemas)
}

function wantedSchemas<S extends { name: string }>(all: S[], wanted: readonly string[]): S[] {
  const unknown = wanted.filter((name) => !all.some((one) => one.name === name))
  if (unknown.length > 0) {
    throw new TabibError('NOT_FOUND', `there is no schema ${unknown.join(', ')}`, {
      context: { schemas: all.map(({ name }) => name) },
    })
  }
  return wanted.length === 0 ? all : all.filter(({ name }) => wanted.includes(name))
}

async function usableSchemas(db: Queryable, given: [number[], number[]]): Promise<Set<string>> {
  const rows = await db.query<{ name: string }>(
    `select nspname as name from pg_namespace
     where oid = any($1) and 'USAGE' = any(${granted(`coalesce(nspacl, acldefault('n', nspowner))`)})`,
    given,
  )
  return new Set(rows.map(({ name }) => name))
}

// Privileges from an ACL, for the grantees in $2.
const granted = (acl: string) =>
  `array(select distinct privilege_type from aclexplode(${acl}) where grantee = any($2::oid[]))`

interface RelationRow extends Omit<Relation, 'privileges'> {
  privileges: Privilege[]
}

async function readRelations(
  db: Queryable,
  given: [number[], number[]],
  tenantColumn: string,
): Promise<Relation[]> {
  const rows = await db.query<RelationRow>(
    `select c.oid::int8::float8 as oid, format('%I.%I', n.nspname, c.relname) as name, n.nspname as schema, c.relname as bare,
       case c.relkind when 'r' then 'table' when 'p' then 'partitioned' when 'v' then 'view'
         when 'm' then 'materialized' else 'foreign' end as kind,
       c.relowner::int8::float8 as owner, c.relrowsecurity as rls, c.relforcerowsecurity as forced,
       coalesce((select option_value::bool from pg_options_to_table(c.reloptions)
         where option_name = 'security_invoker'), false) as invoker,
       ${granted(`coalesce(c.relacl, acldefault('r', c.relowner))`)}
         || array(select distinct privilege_type from pg_attribute a, aclexplode(a.attacl)
                  where a.attrelid = c.oid and a.attacl is not null and grantee = any($2::oid[])) as privileges,
       array(select distinct grantee::int8::float8 from aclexplode(c.relacl)) as grantees,
       coalesce((select json_agg(json_build_object('number', a.attnum, 'name', a.attname,
           'type', format_type(a.atttypid, null), 'notNull', t.typnotnull
             or a.attnotnull and not exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'n'
               and k.conkey = array[a.attnum] and not k.convalidated)
             or exists (select from pg_constraint k
               where k.conrelid = c.oid and k.contype = 'c' and k.convalidated and k.conkey = array[a.attnum]
                 and pg_get_expr(k.conbin, k.conrelid) ~* '^\\([^()]+ is not null\\)$'),
           'hasDefault', a.atthasdef or a.attidentity <> '') order by a.attnum)
         from pg_attribute a join pg_type t on t.oid = a.atttypid
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]') as columns,
       array(select inhparent::int8::float8 from pg_inherits where inhrelid = c.oid) as parents
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relnamespace = any($1) and c.relkind in ('r', 'p', 'v', 'm', 'f')
       -- What an extension brought holds nobody's rows, unless it says whose.
       and (exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = $3 and not a.attisdropped)
            or not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                           and d.deptype = 'e'))
     order by n.nspname, c.relname`,
    [...given, tenantColumn],
  )
  return rows.map((row) => ({ ...row, privileges: new Set(row.privileges) }))
}

async function readPolicies(db: Queryable, scope: number[]): Promise<Policy[]> {
  await db.query(`set local search_path to ''`)
  return db.query<Policy>(
    `select p.polrelid::int8::float8 as relation, quote_ident(p.polname) as name, p.polpermissive as permissive,
       case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
         else 'all' end as command,
       array(select unnest(p.polroles)::int8::float8) as roles,
       pg_get_expr(p.polqual, p.polrelid) as using, pg_get_expr(p.polwithcheck, p.polrelid) as check
     from pg_policy p join pg_class c on c.oid = p.polrelid
     where c.relnamespace = any($1) order by p.polname`,
    [scope],
  )
}

function readForeignKeys(db: Queryable, scope: number[]): Promise<ForeignKey[]> {
  return db.query<ForeignKey>(
    `select quote_ident(k.conname) as name, k.conrelid::int8::float8 as relation,
       array(select unnest(k.conkey)::int) as columns, k.confrelid::int8::float8 as references,
       array(select unnest(k.confkey)::int) as referenced,
       case k.confdeltype when 'c' then 'cascade' when 'n' then 'set null' when 'd' then 'set default' else 'refuse' end
         as "onDelete",
       case k.confupdtype when 'c' then 'cascade' when 'n' then 'set null' when 'd' then 'set default' else 'refuse' end
         as "onUpdate",
       not exists (select from pg_trigger t where t.tgconstraint = k.oid and t.tgenabled in ('D', 'R')) as enforced
     from pg_constraint k join pg_class c on c.oid = k.conrelid
     where k.contype = 'f' and k.conparentid = 0 and c.relnamespace = any($1)
     order by k.conrelid::regclass::text, k.conname`,
    [scope],
  )
}

function readUniqueIndexes(db: Queryable, scope: number[]): Promise<UniqueIndex[]> {
  return db.query<UniqueIndex>(
    `select quote_ident(x.relname) as name, i.indrelid::int8::float8 as relation, i.indisprimary as primary,
       array(select o.oprname::text from pg_constraint k, unnest(k.conexclop) with ordinality u (o_oid, n)
             join pg_operator o on o.oid = o_oid where k.conindid = i.indexrelid and k.contype = 'x' order by n) as operators,
       array(select k::int from unnest(i.indkey) with ordinality u (k, n) where n <= i.indnkeyatts) as columns,
       array(select coalesce((select quote_ident(attname) from pg_attribute where attrelid = i.indrelid and attnum = k and k <> 0),
               pg_get_indexdef(i.indexrelid, n::int, true))
             from unnest(i.indkey) with ordinality u (k, n) where n <= i.indnkeyatts order by n) as keys
     from pg_index i join pg_class x on x.oid = i.indexrelid join pg_class c on c.oid = i.indrelid
     where (i.indisunique or i.indisexclusion) and c.relnamespace = any($1) and c.relkind in ('r', 'p')
       and not exists (select from pg_inherits where inhrelid = i.indexrelid)
     order by x.relname`,
    [scope],
  )
}

async function readRoutines(
  db: Queryable,
  given: [number[], number[]],
  versionNumber: number,
): Promise<Routine[]> {
  return db.query<Routine>(
    `select p.oid::int8::float8 as oid, p.oid::regprocedure::text as name, n.nspname as schema, p.proname as bare,
       p.proowner::int8::float8 as owner, p.prosecdef as definer, p.proleakproof as leakproof, l.lanname as language,
       coalesce(p.proargnames, '{}') as arguments, p.pronargs as takes, p.pronargdefaults as defaults,
       ${versionNumber < 140_000 ? 'p.prosrc' : `coalesce(nullif(p.prosrc, ''), pg_get_function_sqlbody(p.oid), '')`} as body, coalesce(p.proconfig, '{}') as config,
       'EXECUTE' = any(${granted(`coalesce(p.proacl, acldefault('f', p.proowner))`)}) as executable,
       array(select a.oid::regprocedure::text from pg_aggregate g join pg_proc a on a.oid = g.aggfnoid
             where a.pronamespace = any($1) and p.oid in (aggtransfn, aggfinalfn, aggmtransfn, aggminvtransfn, aggmfinalfn)
               and 'EXECUTE' = any(${granted(`coalesce(a.proacl, acldefault('f', a.proowner))`)})
             order by 1) as aggregates,
       p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype) as "returnsTrigger"
     from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
     where p.pronamespace = any($1) and p.prokind in ('f', 'p', 'w')
       and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid
                       and d.deptype = 'e')
     order by 2`,
    given,
  )
}

function readAttached(db: Queryable, scope: number[]): Promise<Attached[]> {
  return db.query<Attached>(
    `select 'trigger' as kind, quote_ident(t.tgname) as name, t.tgrelid::int8::float8 as relation,
       t.tgfoid::int8::float8 as routine
     from pg_trigger t join pg_class c on c.oid = t.tgrelid
     where not t.tgisinternal and t.tgenabled <> 'D' and c.relnamespace = any($1)
     union all
     select 'rule', quote_ident(r.rulename), r.ev_class::int8::float8, 0
     from pg_rewrite r join pg_class c on c.oid = r.ev_class
     where r.rulename <> '_RETURN' and r.ev_enabled <> 'D' and c.relnamespace = any($1)
     union all
     select 'event trigger', quote_ident(evtname), 0, evtfoid::int8::float8 from pg_event_trigger where evtenabled <> 'D'
     order by 2`,
    [scope],
  )
}

async function readViewSources(db: Queryable, scope: number[]): Promise<Map<number, number[]>> {
  const rows = await db.query<{ view: number; sources: number[] }>(
    `select r.ev_class::int8::float8 as view, array_agg(distinct d.refobjid::int8::float8) as sources
     from pg_rewrite r join pg_class c on c.oid = r.ev_class
       join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
         and d.refclassid in ('pg_class'::regclass, 'pg_proc'::regclass) and d.refobjid <> r.ev_class
     where c.relnamespace = any($1) group by 1`,
    [scope],
  )
  return new Map(rows.map(({ view, sources }) => [view, sources]))
}

async function readSequences(db: Queryable, given: [number[], number[]]) {
  const rows = await db.query<{ name: string; relation: number; privileges: Privilege[] }>(
    `select format('%I.%I', n.nspname, c.relname) as name, coalesce(
         (select d.refobjid::int8::float8 from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
            and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') limit 1),
         (select a.adrelid::int8::float8 from pg_depend d join pg_attrdef a on a.oid = d.objid
          where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
          limit 1), 0) as relation,
       ${granted(`coalesce(c.relacl, acldefault('s', c.relowner))`)} as privileges
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'S' and c.relnamespace = any($1) and not c.relowner = any($2::oid[]) order by 1`,
    given,
  )
  return rows.map((row) => ({ ...row, privileges: new Set(row.privileges) }))
}

function readPublications(db: Queryable): Promise<{ name: string; relation: number }[]> {
  return db.query<{ name: string; relation: number }>(
    `select t.pubname as name, c.oid::int8::float8 as relation
     from pg_publication_tables t join pg_namespace n on n.nspname = t.schemaname
       join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
     order by 1, t.schemaname, t.tablename`,
  )
}

// What reads files of the server, or connects to any other as whoever it knows a password of.
const SERVER_FUNCTIONS = [
  'pg_read_file',
  'pg_read_binary_file',
  'pg_ls_dir',
  'pg_stat_file',
  'lo_import',
  'lo_export',
  'dblink',
  'dblink_connect',
  'dblink_connect_u',
  'dblink_exec',
]

// Samples of the rows of every tenant, all large objects, passwords.
const SERVER_TABLES = [
  'pg_statistic',
  'pg_statistic_ext_data',
  'pg_largeobject',
  'pg_authid',
  'pg_user_mapping',
]

async function readSurroundings(
  db: Queryable,
  { versionNumber, given: [scope, grantees] }: { versionNumber: number; given: [number[], number[]] },
) {
  const defaultPrivileges = await db.query<Catalog['defaultPrivileges'][number]>(
    `select d.defaclrole::regrole::text as owner, n.nspname as schema,
       case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
         when 'n' then 'schemas' else 'types' end as kind,
       case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end as grantee,
       array_agg(a.privilege_type order by a.privilege_type) as privileges
     from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
     where a.grantee = any($2::oid[]) and (d.defaclnamespace = 0 or d.defaclnamespace = any($1))
     group by 1, 2, 3, 4 order by 1, 2, 3`,
    [scope, grantees],
  )
  const settings = await db.query<Catalog['settings'][number]>(
    `select r.rolname as role, d.datname as database, split_part(one, '=', 1) as name,
       substr(one, strpos(one, '=') + 1) as value
     from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase,
       unnest(s.setconfig) one
     where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))`,
  )
  const creatable = await db.query<Catalog['creatable'][number]>(
    `select 'schema ' || quote_ident(n.nspname) as name, n.nspname = 'public' and not exists (
         select from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner)))
         where privilege_type = 'CREATE' and grantee = any($2::oid[]) and grantee <> 0) as "byDefault"
     from pg_namespace n where n.oid = any($1) and 'CREATE' = any(${granted(`coalesce(n.nspacl, acldefault('n', n.nspowner))`)})
     union all
     select 'database ' || quote_ident(d.datname), false from pg_database d
     where d.datname = current_database()
       and 'CREATE' = any(${granted(`coalesce(d.datacl, acldefault('d', d.datdba))`)})`,
    [scope, grantees],
  )
  const [large] = await db.query<{ n: number }>(
    `select count(*)::int as n from pg_largeobject_metadata l
     where l.lomowner = any($1::oid[])
       or exists (select from aclexplode(l.lomacl) where grantee = any($1::oid[]))`,
    [grantees],
  )
  const servers = await db.query<{ name: string }>(
    `select s.srvname as name from pg_foreign_server s
     where exists (select from aclexplode(coalesce(s.srvacl, acldefault('S', s.srvowner))) where grantee = any($1::oid[]))
     union all
     select w.fdwname from pg_foreign_data_wrapper w
     where exists (select from aclexplode(coalesce(w.fdwacl, acldefault('F', w.fdwowner))) where grantee = any($1::oid[]))`,
    [grantees],
  )
  const serverFunctions = await db.query<{ name: string }>(
    `select min(p.oid::regprocedure::text) as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where p.proname = any($1)
       and 'EXECUTE' = any(${granted(`coalesce(p.proacl, acldefault('f', p.proowner))`)})
       and 'USAGE' = any(${granted(`coalesce(n.nspacl, acldefault('n', n.nspowner))`)})
     group by p.proname order by 1`,
    [SERVER_FUNCTIONS, grantees],
  )
  const serverTables = await db.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c
     where c.relnamespace = 'pg_catalog'::regnamespace and c.relname = any($1)
       and exists (select from aclexplode(c.relacl) where grantee = any($2::oid[]))`,
    [SERVER_TABLES, grantees],
  )
  const parameters =
    versionNumber < 150_000
      ? []
      : await db.query<{ name: string }>(
          `select p.parname as name from pg_parameter_acl p
           where p.parname = 'session_replication_role'
             and exists (select from aclexplode(p.paracl) where grantee = any($1::oid[]))`,
          [grantees],
        )
  return {
    defaultPrivileges,
    settings,
    creatable,
    largeObjects: large!.n,
    servers: servers.map(({ name }) => name),
    serverObjects: [...serverFunctions, ...serverTables].map(({ name }) => name),
    parameters: parameters.map(({ name }) => name),
  }
}
