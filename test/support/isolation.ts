import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, inject } from 'vitest'
import { type Database, openDatabase } from '../../src/adapters/postgres/client.ts'
import { type AttemptsOn, checkIsolation, type IsolationOptions } from '../../src/domain/isolation/check.ts'
import { fails } from '../../src/findings-report.ts'

/** A database that is not tabib's, with an owner and an application's role of its own. Its parts exist from `beforeAll` on. */
export interface ForeignDatabase {
  readonly owner: Database
  /** Superuser, in this database: for the holes that only one can make. */
  readonly admin: Database
  readonly app: string
  readonly ownerName: string
  ownerUrl: string
  check(options?: Partial<IsolationOptions> & { attemptsOn?: AttemptsOn }): ReturnType<typeof checkIsolation>
  /** What fails the check: rule and object of each finding, sorted. */
  holes(options?: Partial<IsolationOptions> & { attemptsOn?: AttemptsOn }): Promise<string[]>
}

/** Makes a database of `schema`, run as its owner; `$app` and `$owner` stand for the two roles. */
export function useForeignDatabase(schema: string): ForeignDatabase {
  const id = randomBytes(4).toString('hex')
  const [app, ownerName, name] = [`app_${id}`, `owner_${id}`, `foreign_${id}`]
  const password = randomBytes(8).toString('hex')
  const opened: Database[] = []
  const parts = {} as { owner: Database; admin: Database; ownerUrl: string }
  const asServer = async (...statements: string[]) => {
    await using server = openDatabase({ url: inject('adminUrl'), maxConnections: 1 })
    for (const statement of statements) await server.query(statement)
  }
  beforeAll(async () => {
    await asServer(
      `create role ${ownerName} login createdb createrole password '${password}'`,
      `create role ${app} nologin`,
      `grant ${app} to ${ownerName}`,
      `create database ${name} owner ${ownerName}`,
    )
    const adminUrl = inject('adminUrl').replace(/[^/]+$/, name)
    const ownerUrl = adminUrl.replace(/\/\/[^@]+@/, `//${ownerName}:${password}@`)
    const open = (url: string) => {
      const database = openDatabase({ url, maxConnections: 3 })
      opened.push(database)
      return database
    }
    Object.assign(parts, { owner: open(ownerUrl), admin: open(adminUrl), ownerUrl })
    await parts.owner.query(filled(schema))
  })
  afterAll(async () => {
    await Promise.all(opened.map((database) => database.close()))
    await asServer(
      `drop database ${name} with (force)`,
      // Also those that a schema made for itself: their names end with the application's.
      `do $$ declare one text; begin
         for one in select rolname from pg_roles where rolname like '%${app}' or rolname = '${ownerName}' loop
           execute format('drop role %I', one);
         end loop;
       end $$`,
    )
  })
  const filled = (sql: string) => sql.replaceAll('$app', app).replaceAll('$owner', ownerName)
  const check: ForeignDatabase['check'] = (options = {}) =>
    checkIsolation(
      { db: parts.owner },
      { role: app, tenantColumn: 'tenant_id', schemas: [], attemptsOn: 'nothing', ...options },
    )
  const withNames = (database: () => Database): Database => ({
    ...database(),
    query: (text, ...rest) => database().query(filled(text), ...rest),
  })
  return {
    app,
    ownerName,
    check,
    get owner() {
      return withNames(() => parts.owner)
    },
    get admin() {
      return withNames(() => parts.admin)
    },
    get ownerUrl() {
      return parts.ownerUrl
    },
    async holes(options) {
      const { findings } = await check(options)
      return findings
        .filter(fails)
        .map(
          ({ id, object }) =>
            `${id.replace('isolation/', '')} ${object.replaceAll(app, 'app').replaceAll(ownerName, 'owner')}`,
        )
        .sort()
    },
  }
}
