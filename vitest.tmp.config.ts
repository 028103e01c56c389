import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** What waits longest begins first: a drill that comes last keeps one worker waiting for it. */
class DrillsFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isDrill = ({ moduleId }: TestSpecification) => moduleId.includes('/test/drills/')
    const sorted = await super.sort(files)
    return [...sorted.filter(isDrill), ...sorted.filter((file) => !isDrill(file))]
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/globalSetup.ts'],
    pool: 'forks', setupFiles: ['/tmp/lead/acct.mjs'],
    // Each test file brings servers of its own; more at once only wait for each other.
    maxWorkers: 3,
    sequence: { sequencer: DrillsFirst },
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
})
