import { describe, expect, inject, it } from 'vitest'
import type { BuiltMode } from '../../src/catalog/failure-mode.ts'
import { catalog } from '../../src/catalog/index.ts'
import { runDrill } from '../../src/drill/run.ts'

const built = catalog.filter((mode): mode is BuiltMode => mode.state === 'built')

/** Every built mode of a service: its drill passes, and fails when its mitigation is taken away. */
export function drillsOf(service: string): void {
  const prepared = inject('prepared')
  const modes = built.filter(({ id }) => id.startsWith(`${service}/`))
  describe.each(modes.map((mode) => [mode.id, mode] as const))('%s', (_id, mode) => {
    it('is detected, mended, and nothing is lost', { timeout: 120_000 }, async () => {
      const { steps } = await runDrill(mode, { kind: 'drill', catalog: built, prepared })
      expect(steps.filter(({ ok }) => !ok)).toEqual([])
    })

    it('is not mended without its mitigation', { timeout: 120_000 }, async () => {
      const { passed, steps } = await runDrill(mode, {
        kind: 'without-mitigation',
        catalog: built,
        prepared,
      })
      expect(passed).toBe(false)
      // It must fail for want of the cure, not because the alarm stayed silent or the fault did not take.
      expect(steps.at(-1)?.name).toMatch(mode.kind === 'guard' ? /^nothing lost$/ : /^recovered$/)
    })
  })
}
