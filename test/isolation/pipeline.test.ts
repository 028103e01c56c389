import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { parse } from 'yaml'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { packageRoot } from '../../src/package-root.ts'
import { useForeignDatabase } from '../support/isolation.ts'

type Jobs = Record<string, { steps: { run?: string; if?: string }[] }>

const read = (path: string) => readFile(join(packageRoot(), path), 'utf8')
const [, snippet = ''] = /```yaml\n(name: isolation[\s\S]*?)```/.exec(await read('docs/isolation.md')) ?? []

const mine = `tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)`
const database = useForeignDatabase(`
  create table visit (id uuid primary key default gen_random_uuid(), tenant_id uuid not null);
  alter table visit enable row level security; alter table visit force row level security;
  create policy tenant on visit using (${mine});
  grant select, insert on visit to $app;`)

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-pipeline-'))
  await writeFile(join(folder, 'isolation-waivers.yaml'), await read('isolation-waivers.yaml'))
})
afterAll(() => rm(folder, { recursive: true }))

/** What a job types of tabib, each step as one script, with tabib from this checkout. */
function scripts(workflow: string, job: string): string[] {
  const tabib = `${process.execPath} ${join(packageRoot(), 'bin/run.js')}`
  return (parse(workflow).jobs as Jobs)[job]!.steps.flatMap(({ run = '' }) => {
    const lines = run.split('\n').filter((line) => /^(npx tabib|node bin\/run\.js) /.test(line))
    const typed = lines.map((line) => line.replace(/^(npx tabib|node bin\/run\.js)/, tabib))
    return typed.length > 0 ? [typed.join('\n')] : []
  })
}

const runIn = (env: Record<string, string>) => (script: string) =>
  execa('bash', ['-ec', script], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '', ...env },
    extendEnv: false,
    reject: false,
  })

async function written(): Promise<{ rules: string[]; junit: string }> {
  const { runs } = JSON.parse(await readFile(join(folder, 'isolation.sarif'), 'utf8'))
  const rules = runs[0].results.map(({ ruleId }: { ruleId: string }) => ruleId)
  return { rules, junit: await readFile(join(folder, 'isolation.xml'), 'utf8') }
}

test('the pipeline of docs/isolation.md lets a schema through that keeps tenants apart, and stops one that does not', async () => {
  const url = new URL(database.ownerUrl)
  const PGPASSWORD = url.password
  url.password = ''
  const run = runIn({ DATABASE_URL: url.href, PGPASSWORD })
  const [check = '', files = ''] = scripts(snippet, 'check').map((script) =>
    script.replaceAll('--role app', `--role ${database.app}`),
  )
  expect(await run(check)).toMatchObject({ exitCode: 0, stdout: expect.not.stringContaining('::') })
  await database.owner.query('alter table visit no force row level security')
  expect(await run(check)).toMatchObject({
    exitCode: 1,
    stdout: expect.stringMatching(/^::error title=isolation\/rls-not-forced::public\.visit: /),
  })
  expect((await run(files)).exitCode).toBe(0)
  const { rules, junit } = await written()
  expect(rules).toEqual(['isolation/rls-not-forced'])
  expect(junit).toContain('failures="1"')
})

test("tabib's own pipeline migrates an empty database and finds nothing in it", async () => {
  const name = `pipeline_${Date.now()}`
  await using admin = openDatabase({ url: inject('adminUrl'), maxConnections: 1 })
  await admin.query(`create database ${name} owner tabib_owner`)
  try {
    const url = inject('templateUrls').tabib_owner.replace(/[^/]+$/, name)
    const run = runIn({
      TABIB_OWNER_DATABASE_URL: url,
      TABIB_DATABASE_URL: url,
      TABIB_NATS_URL: inject('natsUrl'),
    })
    const seen = []
    for (const script of scripts(await read('.github/workflows/ci.yml'), 'isolation'))
      seen.push(await run(script))
    expect(seen.map(({ exitCode, stderr }) => ({ exitCode, stderr }))).toEqual(
      Array(3).fill({ exitCode: 0, stderr: expect.anything() }),
    )
    const { junit } = await written()
    expect(junit).toContain('failures="0"')
  } finally {
    await admin.query(`drop database ${name} with (force)`)
  }
})
