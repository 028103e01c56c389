import { execa } from 'execa'
import { expect, test } from 'vitest'
import { packageRoot } from '../../src/package-root.ts'

test('an account of 20,000 lines is rendered with tags in the memory of its pages', async () => {
  // All of its structure elements at once would not fit: bench/statements.ts does 100,000.
  const argv = [
    '--max-old-space-size=64',
    '--import',
    'tsx',
    'bench/statements/engine.ts',
    'tagged',
    '1',
    '20000',
  ]
  const { stdout } = await execa(process.execPath, argv, { cwd: packageRoot() })
  expect(JSON.parse(stdout).rssMib).toBeLessThan(320)
}, 60_000)
