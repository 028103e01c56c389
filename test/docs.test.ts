import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ERROR_CODES } from '../src/errors.ts'
import { packageRoot } from '../src/package-root.ts'

const read = (path: string) => readFileSync(join(packageRoot(), path), 'utf8')

test('docs/errors.md lists every error code with its exit code, and no other', () => {
  const rows = [...read('docs/errors.md').matchAll(/^\| `([A-Z_]+)` \| (\d+) \|/gm)]
  expect(Object.fromEntries(rows.map(([, code, exit]) => [code, Number(exit)]))).toEqual(ERROR_CODES)
})

test('docs/configuration.md names every variable that the program reads, and no other', () => {
  const sources = ['src/config.ts', 'src/command.ts', 'src/app.ts'].map(read).join('\n')
  const used = new Set([...sources.matchAll(/(?:env\.|read\(')(TABIB_[A-Z_]+)/g)].map(([, name]) => name))
  const documented = new Set(
    [...read('docs/configuration.md').matchAll(/^\| `(TABIB_[A-Z_]+)` \|/gm)].map(([, name]) => name),
  )
  expect([...documented].sort()).toEqual([...used].sort())
})

test('the example in docs/configuration.md is a valid configuration', async () => {
  const { loadConfig } = await import('../src/config.ts')
  const { mkdtemp, rm, writeFile } = await import('node:fs/promises')
  const { tmpdir } = await import('node:os')
  const example = /```yaml\n([\s\S]*?)```/.exec(read('docs/configuration.md'))?.[1] ?? ''
  const folder = await mkdtemp(join(tmpdir(), 'tabib-docs-'))
  try {
    // The files with secrets do not exist here, so their values are given in place.
    const inPlace = example
      .replace(/urlFile: \/run\/secrets\/tabib-database/, 'url: postgres://db/tabib')
      .replace(/ownerUrlFile: \/run\/secrets\/tabib-owner/, 'ownerUrl: postgres://owner@db/tabib')
    await writeFile(join(folder, 'tabib.yaml'), inPlace)
    const config = loadConfig({ cwd: folder, env: {} })
    expect(config).toMatchObject({
      context: 'staging',
      production: false,
      ownerDatabaseUrl: 'postgres://owner@db/tabib',
    })
    expect(config.outbox).toMatchObject({ poison: 'hold', replicas: 3, retentionMs: 7 * 86_400_000 })
  } finally {
    await rm(folder, { recursive: true })
  }
})
