import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

interface Place {
  /** Any database's URL for a superuser: of the server that `database` is on. */
  adminUrl: string
  database: string
  file: string
}

const run = promisify(execFile)
const urlOf = ({ adminUrl, database }: Place) => `--dbname=${adminUrl.replace(/[^/]+$/, database)}`

/** A backup of a whole database, as operators make one: pg_dump's own format. */
export async function dumpDatabase(place: Place): Promise<void> {
  await run('pg_dump', ['--format=custom', `--file=${place.file}`, urlOf(place)])
}

/** Restores it into an empty database, or over one that is in use: all or nothing. */
export async function restoreDatabase(place: Place, { over = false } = {}): Promise<void> {
  const replacing = over ? ['--clean', '--if-exists', '--single-transaction'] : ['--exit-on-error']
  await run('pg_restore', [...replacing, urlOf(place), place.file])
}
