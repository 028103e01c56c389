import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { TabibError } from '../../errors.ts'
import { type Database, editUrl, hostUrls, openDatabase } from './client.ts'

/** A database of the same schema as another's, without its rows; dropped when disposed. */
export interface ScratchDatabase extends AsyncDisposable {
  readonly db: Database
  /** Parts of the schema that could not be made again, each with the server's reason. */
  readonly failures: string[]
}

const PREFIX = 'tabib_scratch_'
const ABANDONED_AFTER_MS = 3_600_000

/**
 * Copies a database's schema into a new database on the same server: pg_dump, and its statements one after another, so
 * that what the role may not make (an extension, say) leaves out only itself. Also drops what a killed run left behind.
 *
 * @throws TabibError NOT_AUTHORISED where the role may not create a database, SERVER_MISSING where pg_dump is not
 * installed, SERVER_FAILED where it fails.
 */
export async function copySchema({ db, url }: { db: Database; url: string }): Promise<ScratchDatabase> {
  const dumped = dumpSchema(url)
  // Whoever fails first, the other is waited for below.
  dumped.catch(() => {})
  await dropAbandoned(db)
  const name = `${PREFIX}${Date.now()}_${randomBytes(3).toString('hex')}`
  const scratchUrl = editUrl(url, (one) => {
    one.pathname = `/${name}`
  })
  await db.query(`create database ${name} template template0`)
  await copySettings(db, name)
  const scratch = openDatabase({ url: scratchUrl, maxConnections: 2, applicationName: 'tabib scratch' })
  const dispose = async () => {
    await scratch.close()
    await db.query(`drop database if exists ${name} with (force)`)
  }
  try {
    return { db: scratch, failures: await restore(scratch, await dumped), [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

async function restore(db: Database, dump: string): Promise<string[]> {
  // psql's own words, which newer releases of pg_dump print around the statements.
  const sql = dump.replace(/^\\(un)?restrict .*$/gm, '')
  await using connection = await db.connection()
  try {
    await connection.raw.query(sql)
    return []
  } catch {
    // One statement failed, and everything with it: now each by itself.
  } finally {
    // The dump empties the search path of its session, which the pool would hand on.
    await connection.raw.query('discard all')
  }
  const [head = '', ...parts] = sql.split(/^--\n-- (?=Name: )/m)
  await connection.raw.query(head)
  const failures: string[] = []
  for (const part of parts) {
    const [, label = ''] = /^Name: ([^;]*; Type: [^;]*);/.exec(part) ?? []
    try {
      await connection.raw.query(`-- ${part}`)
    } catch (error) {
      failures.push(`${label.replace('; Type:', '')}: ${(error as Error).message}`)
    }
  }
  await connection.raw.query('discard all')
  return failures
}

/** What `alter database … set` says, such as a search path. */
async function copySettings(db: Database, name: string): Promise<void> {
  const rows = await db.query<{ setting: string }>(
    `select format(case when one like 'search_path=%' then '%I to %s' else '%I to %L' end,
       split_part(one, '=', 1), substr(one, strpos(one, '=') + 1)) as setting
     from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase, unnest(s.setconfig) one
     where d.datname = current_database() and s.setrole = 0`,
  )
  for (const { setting } of rows) {
    // What only a superuser may set is left out; nothing that is tried hangs on it.
    await db.query(`alter database ${name} set ${setting}`).catch(() => {})
  }
}

/** The schema as SQL. The password goes by a file, since others can read a process's arguments. */
async function dumpSchema(url: string): Promise<string> {
  const { password } = new URL(hostUrls(url)[0]!)
  let target = url
  const folder = await mkdtemp(join(tmpdir(), 'tabib-dump-'))
  try {
    if (password) {
      const escaped = (text: string) => decodeURIComponent(text).replace(/[\\:]/g, '\\$&')
      const passfile = join(folder, 'pgpass')
      await writeFile(passfile, `*:*:*:*:${escaped(password)}\n`, { mode: 0o600 })
      target = editUrl(url, (one) => {
        one.password = ''
        one.searchParams.set('passfile', passfile)
      })
    }
    const flags = [
      '--schema-only',
      '--no-publications',
      '--no-subscriptions',
      '--no-comments',
      '--no-tablespaces',
    ]
    const { stdout } = await promisify(execFile)('pg_dump', [...flags, `--dbname=${target}`], {
      maxBuffer: 1 << 28,
    })
    return stdout
  } catch (cause) {
    const { code, stderr = '' } = cause as { code?: string; stderr?: string }
    if (code === 'ENOENT') {
      throw new TabibError('SERVER_MISSING', 'pg_dump is not installed', {
        suggestions: ['sudo apt-get install -y postgresql-client'],
        retryable: false,
        cause,
      })
    }
    throw new TabibError('SERVER_FAILED', `pg_dump failed: ${stderr.trim().split('\n').at(-1)}`, { cause })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function dropAbandoned(db: Database): Promise<void> {
  const rows = await db.query<{ name: string }>(
    `select d.datname as name from pg_database d
     where d.datname ~ $1 and pg_has_role(d.datdba, 'member')
       and split_part(substr(d.datname, $2), '_', 1)::bigint < $3
       and not exists (select from pg_stat_activity a where a.datid = d.oid)`,
    [`^${PREFIX}\\d+_[0-9a-f]+$`, PREFIX.length + 1, Date.now() - ABANDONED_AFTER_MS],
  )
  for (const { name } of rows) await db.query(`drop database if exists ${name}`)
}
