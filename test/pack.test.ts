import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../src/package-root.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-pack-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** Packs a built checkout and unpacks it elsewhere, beside the dependencies that `npm install` would bring. */
async function install(checkout: string, name: string): Promise<string> {
  const place = join(folder, name)
  await mkdir(join(place, 'node_modules'), { recursive: true })
  const { stdout } = await execa(
    'npm',
    ['pack', '--silent', '--ignore-scripts', '--pack-destination', place],
    {
      cwd: checkout,
    },
  )
  await execa('tar', ['-xzf', stdout.trim()], { cwd: place })
  const { dependencies } = JSON.parse(await readFile(join(checkout, 'package.json'), 'utf8'))
  for (const dependency of Object.keys(dependencies)) {
    // What is bundled must not be needed: oclif is left out.
    if (dependency === '@oclif/core') continue
    const link = join(place, 'node_modules', dependency)
    await mkdir(join(link, '..'), { recursive: true })
    await symlink(join(packageRoot(), 'node_modules', dependency), link)
  }
  return join(place, 'package')
}

const tabib = (installed: string, argv: string[]) =>
  execa(process.execPath, [join(installed, 'bin/run.js'), ...argv], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '', HOME: folder },
    extendEnv: false,
    reject: false,
  })

describe('the packed build', () => {
  let installed: string
  beforeAll(async () => {
    installed = await install(packageRoot(), 'full')
  })

  test('holds what runs and nothing that was only needed to make it', async () => {
    const files = await readdir(installed)
    expect(files).toEqual(
      expect.arrayContaining(['bin', 'dist', 'migrations', 'runbooks', 'docs', 'LICENSE']),
    )
    for (const left of ['src', 'test', 'bench', 'scripts', 'node_modules']) expect(files).not.toContain(left)
  })

  test('says its version', async () => {
    const { version } = JSON.parse(await readFile(join(packageRoot(), 'package.json'), 'utf8'))
    expect((await tabib(installed, ['--version'])).stdout).toContain(`tabib/${version}`)
  })

  test('has help with flags and examples for every command', async () => {
    const { commands } = JSON.parse(await readFile(join(installed, 'oclif.manifest.json'), 'utf8'))
    for (const [id, command] of Object.entries<Record<string, unknown>>(commands)) {
      expect(command.summary, `summary of ${id}`).toBeTruthy()
      expect(command.examples, `examples of ${id}`).not.toEqual([])
      for (const [name, flag] of Object.entries(command.flags as Record<string, { description?: string }>)) {
        expect(flag.description, `description of ${id} --${name}`).toBeTruthy()
      }
    }
    expect((await tabib(installed, ['audit', 'verify', '--help'])).stdout).toContain('--anchor')
    expect(Object.keys(commands)).toEqual(expect.arrayContaining(['up', 'drill:run', 'audit:verify']))
  })

  test('finds its own files and loads its libraries', async () => {
    const { exitCode, stdout } = await tabib(installed, ['doctor', '--json'])
    expect(exitCode).toBe(1)
    const { result } = JSON.parse(stdout)
    expect(result.checks[0]).toMatchObject({ name: 'package', outcome: 'ok' })
    // Loads the client of Postgres, and the configuration's schema.
    const away = await tabib(installed, [
      'audit',
      'list',
      '--database-url',
      'postgres://127.0.0.1:1/x',
      '--json',
    ])
    expect(JSON.parse(away.stdout).error.code).toBe('POSTGRES_UNREACHABLE')
  })

  test('gives services the verifier, with its types', async () => {
    const script = `import { keySetAt, openVerifier } from 'tabib/verifier'
      const verifier = await openVerifier({ purpose: 'x', load: keySetAt('http://127.0.0.1:1', fetch) })
      console.log(verifier.lacks().join())
      await verifier[Symbol.asyncDispose]()`
    for (const name of ['service.mjs', 'service.mts']) await writeFile(join(installed, name), script)
    const { stdout } = await execa(process.execPath, ['service.mjs'], { cwd: installed })
    expect(stdout).toBe('no key set could be loaded yet')
    const flags =
      '--noEmit --strict --module nodenext --target es2023 --lib es2023,esnext.disposable --skipLibCheck'
    const types = ['--types', 'node', '--typeRoots', join(packageRoot(), 'node_modules/@types')]
    const tsc = join(packageRoot(), 'node_modules/.bin/tsc')
    await execa(tsc, [...flags.split(' '), ...types, 'service.mts'], { cwd: installed, all: true })
  })

  test('every command can be loaded', async () => {
    const { commands } = JSON.parse(await readFile(join(installed, 'oclif.manifest.json'), 'utf8'))
    const paths = Object.values<{ relativePath: string[] }>(commands).map(({ relativePath }) => relativePath)
    const script = paths.map((path) => `await import(${JSON.stringify(join(installed, ...path))})`).join('\n')
    const { exitCode, stderr } = await execa(process.execPath, ['--input-type=module', '-e', script], {
      reject: false,
      cwd: folder,
    })
    expect(stderr).toBe('')
    expect(exitCode).toBe(0)
  })
})

test('the production build has neither `up` nor `drill`, nor what they alone need', async () => {
  const checkout = join(folder, 'checkout')
  const needed = [
    'package.json',
    'scripts',
    'src',
    'bin',
    'migrations',
    'runbooks',
    'docs',
    'tsconfig.json',
    'tsconfig.types.json',
  ]
  for (const path of needed) await cp(join(packageRoot(), path), join(checkout, path), { recursive: true })
  await symlink(join(packageRoot(), 'node_modules'), join(checkout, 'node_modules'))
  await execa(process.execPath, ['scripts/build.js', '--production'], { cwd: checkout })

  const installed = await install(checkout, 'production')
  const { commands } = JSON.parse(await readFile(join(installed, 'oclif.manifest.json'), 'utf8'))
  expect(Object.keys(commands)).toContain('audit:verify')
  expect(Object.keys(commands).filter((id) => /^(up$|drill)/.test(id))).toEqual([])
  const refused = await tabib(installed, ['up'])
  expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('there is no command "up"') })
  const { stdout } = await execa('grep', ['-rlE', 'tabib-sandbox|initdb', join(installed, 'dist')], {
    reject: false,
  })
  expect(stdout).toBe('')
})
