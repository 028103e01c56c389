// Bundles src/ into dist/, one lazily loaded entry a command and the verifier that services import, and writes
// oclif.manifest.json.
//   --production   leaves out what only rehearses: `up`, `drill`, and all that nothing else imports
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Plugin, settings } from '@oclif/core'
import { build } from 'esbuild'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const production = process.argv.includes('--production')
const REHEARSAL = /^src\/commands\/(up\.ts$|drill\/)/

// An import of a built-in module reads every property that it exports, and with `node:fs` that loads streams and more:
// a fifth of a start. `require` reads nothing.
const builtinsByRequire = {
  name: 'builtins-by-require',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^node:/ }, ({ path, kind }) =>
      kind === 'require-call' || kind === 'dynamic-import'
        ? { path, external: true }
        : { path, namespace: 'builtin' },
    )
    onLoad({ filter: /.*/, namespace: 'builtin' }, ({ path }) => ({
      contents: `module.exports = require(${JSON.stringify(path)})`,
    }))
  },
}

const commands = filesUnder('src/commands').filter((file) => !production || !REHEARSAL.test(file))
const { outputFiles } = await build({
  absWorkingDir: root,
  entryPoints: [
    'src/main.ts',
    'src/domain/keys/verifier.ts',
    'src/adapters/keystore/pkcs11-process.ts',
    'src/workers/statement-renderer.ts',
    ...filesUnder('src/hooks'),
    ...commands,
  ],
  outbase: 'src',
  outdir: 'dist',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  minify: true,
  keepNames: true,
  legalComments: 'none',
  chunkNames: 'chunks/[name]-[hash]',
  // These load files of their own at run time, or are optional parts of what is bundled.
  external: [
    'bullmq',
    'fastify',
    'harfbuzzjs',
    'ioredis',
    'node-pg-migrate',
    'pdfkit',
    'pino',
    'pkcs11js',
    'prom-client',
    'pg-native',
    'pg-cloudflare',
    'typescript',
    'undici',
  ],
  banner: { js: "const require=process.getBuiltinModule('module').createRequire(import.meta.url);" },
  plugins: [builtinsByRequire],
  write: false,
})

// Each file is replaced in one step: a tabib that runs meanwhile sees the old file or the new one.
const written = new Set()
for (const { path, contents } of outputFiles) {
  written.add(path)
  if (existsSync(path) && readFileSync(path).equals(contents)) continue
  mkdirSync(dirname(path), { recursive: true })
  replace(path, contents)
}
for (const file of filesUnder('dist')) if (!written.has(join(root, file))) rmSync(join(root, file))
const tsc = join(root, 'node_modules/typescript/bin/tsc')
execFileSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.types.json')], { stdio: 'inherit' })

settings.enableAutoTranspile = false
const plugin = new Plugin({
  root,
  type: 'core',
  ignoreManifest: true,
  errorOnManifestCreate: true,
  respectNoCacheDefault: true,
})
await plugin.load()
// Help breaks lines by the terminal's width, and would keep those of the source as well.
for (const command of Object.values(plugin.manifest.commands)) {
  command.description = command.description?.replace(/(?<!\n)\n(?!\n)/g, ' ')
}
replace(join(root, 'oclif.manifest.json'), `${JSON.stringify(plugin.manifest)}\n`)

function replace(path, contents) {
  writeFileSync(`${path}.${process.pid}`, contents)
  renameSync(`${path}.${process.pid}`, path)
}

function filesUnder(folder) {
  if (!existsSync(join(root, folder))) return []
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.d.ts'))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort()
}
