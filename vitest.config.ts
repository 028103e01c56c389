import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** What takes longest, longest first. The first few wait more than they work, and leave the cores to what runs beside them. */
const LONGEST = [
  'drills/billing',
  'drills/communication',
  'worker',
  'statements/run',
  'ledger/faults',
  'cluster/commands',
  'drills/virtual-care',
  'keystore',
  'residency/commands',
  'cluster/read',
  'runbooks',
  'drills/payments',
  'drills/control',
  'drills/rotations',
  'command',
  'drills/tabib',
  'sandbox/cluster',
  'inbox',
  'drills/chaos',
  'isolation/pipeline',
].map((name) => `/test/${name}.test.ts`)

/** A long file that comes last keeps one worker at it while the others have nothing left. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = LONGEST.findIndex((name) => moduleId.endsWith(name))
      return found < 0 ? LONGEST.length : found
    }
    return (await super.sort(files)).sort((one, other) => place(one) - place(other))
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/globalSetup.ts'],
    pool: 'forks',
    // Each test file brings servers of its own, and waits for them half of its time: two for each core keep it busy.
    maxWorkers: 4,
    sequence: { sequencer: LongestFirst },
    // What never ends is ended by these: a busy machine is given time.
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
})
