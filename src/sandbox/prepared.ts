import { openDatabase } from '../adapters/postgres/client.ts'
import { migrateDatabase } from '../domain/schema/migrate.ts'
import { openSandboxFolder } from './folder.ts'
import { type PreparedPostgres, startPostgres } from './servers/postgres.ts'

/** Makes a Postgres with tabib's schema and stops it: what many worlds are copied from. Disposing removes it. */
export async function preparePostgres(): Promise<PreparedPostgres & AsyncDisposable> {
  const folder = await openSandboxFolder()
  try {
    const postgres = await startPostgres({ folder })
    const { name, ownerUrl } = await postgres.createDatabase()
    {
      await using owner = openDatabase({ url: ownerUrl, maxConnections: 1 })
      await migrateDatabase({ db: owner })
    }
    await postgres.grantRoles()
    return {
      ...(await postgres.stopForCopies(name)),
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    }
  } catch (error) {
    await folder[Symbol.asyncDispose]()
    throw error
  }
}
