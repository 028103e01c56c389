import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Plugin } from '@oclif/core'
import { register } from 'tsx/esm/api'

/**
 * Runs tabib's door from its TypeScript sources, without bundle and manifest, on the commands below a folder.
 * @param {string[]} argv
 * @param {string} commands
 */
export async function runFromSource(argv, commands) {
  register()
  const root = join(dirname(fileURLToPath(import.meta.url)), '..')
  const pjson = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  pjson.oclif = { ...pjson.oclif, commands, hooks: { init: './src/hooks/init.ts' } }
  const plugin = new Plugin({ root, pjson, isRoot: true, type: 'core', ignoreManifest: true })
  await plugin.load()
  const { main } = await import('../src/main.ts')
  await main(argv, { root, pjson, plugins: [plugin] })
}
