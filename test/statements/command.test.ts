import { lstat, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { packageRoot } from '../../src/package-root.ts'
import { line, statement } from './support.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-statement-'))
  await writeFile(join(folder, 'good.json'), JSON.stringify(statement()))
  await writeFile(join(folder, 'rare.json'), JSON.stringify(statement({ lines: [line('漢')] })))
  await writeFile(join(folder, 'bad.json'), '{"patient": {"name": "محمد')
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const render = (...argv: string[]) =>
  execa(process.execPath, [join(packageRoot(), 'bin/run.js'), 'statement', 'render', ...argv], {
    cwd: folder,
    reject: false,
  })

test('a statement is written as a whole or not at all, and the exit code says what became of it', async () => {
  const good = await render('--input', 'good.json', '--file', 'good.pdf', '--json')
  expect(good.exitCode).toBe(0)
  expect(JSON.parse(good.stdout).result).toEqual({ file: 'good.pdf', pages: 1, lines: 2, flaws: [] })
  expect((await readFile(join(folder, 'good.pdf'))).toString('latin1')).toMatch(/^%PDF-1\.7[\s\S]*%%EOF\s*$/)

  const rare = await render('--input', 'rare.json', '--file', 'rare.pdf')
  expect(rare.exitCode).toBe(1)
  expect(rare.stderr).toContain('lines[0].description: U+6F22 is in no font')

  const bad = await render('--input', 'bad.json', '--file', 'bad.pdf')
  expect(bad.exitCode).toBe(2)
  expect(bad.stderr).toContain('STATEMENT_INVALID')
  expect(bad.stderr).not.toContain('محمد')

  const nowhere = await render('--input', 'good.json', '--file', 'no/such/folder.pdf')
  expect(nowhere.exitCode).toBe(2)
  expect(nowhere.stderr).toContain('cannot write no/such/folder.pdf: ENOENT')

  expect((await readdir(folder)).sort()).toEqual([
    'bad.json',
    'good.json',
    'good.pdf',
    'rare.json',
    'rare.pdf',
  ])
})

test('what is no plain file is written to and not replaced', async () => {
  await writeFile(join(folder, 'target.pdf'), '')
  await symlink('target.pdf', join(folder, 'link.pdf'))
  expect((await render('--input', 'good.json', '--file', 'link.pdf')).exitCode).toBe(0)
  expect((await lstat(join(folder, 'link.pdf'))).isSymbolicLink()).toBe(true)
  expect(await readFile(join(folder, 'target.pdf'))).toEqual(await readFile(join(folder, 'good.pdf')))
})
