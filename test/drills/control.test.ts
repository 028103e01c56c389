import { expect, it } from 'vitest'
import type { BuiltMode } from '../../src/catalog/failure-mode.ts'
import { catalog } from '../../src/catalog/index.ts'
import { runDrill } from '../../src/drill/run.ts'

it('no mode fires on a platform at work that nothing hurts', { timeout: 120_000 }, async () => {
  const built = catalog.filter((mode): mode is BuiltMode => mode.state === 'built')
  const { steps } = await runDrill(built[0]!, { kind: 'control', catalog: built })
  expect(steps.filter(({ ok }) => !ok)).toEqual([])
  expect(steps.map(({ name }) => name)).toContain('silent at work')
})
