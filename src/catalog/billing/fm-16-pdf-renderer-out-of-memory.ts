import { setTimeout as delay } from 'node:timers/promises'
import { compareStatements } from '../../domain/statements/compare.ts'
import { outOfMemory } from '../../domain/statements/runs.ts'
import { openStore } from '../../domain/statements/store.ts'
import { failureMode } from '../failure-mode.ts'

const LIMIT_MIB = 132
// Close to the most that is taken: full statements decode it, basic ones leave it out.
const LOGO_SIDE = 2_400

interface Broken extends AsyncDisposable {
  tenantId: string
}

export default failureMode({
  id: 'billing/FM-16',
  kind: 'alert',
  title: 'The PDF renderer runs out of memory on a large right-to-left statement',
  severity: 'ticket',
  detect: {
    metric: 'billing_statements_out_of_memory',
    measure: async (app) => {
      const accounts = await outOfMemory(app)
      const seen = accounts
        .slice(0, 20)
        .map(({ runId, accountId, rssMib }) => `${runId} ${accountId} ${rssMib} MiB`)
      return {
        value: accounts.length,
        evidence: { accounts: seen, limitMib: app.config.statements.memoryLimitMib },
      }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} account${count === 1 ? ' has' : 's have'} no statement: the renderer reached its memory limit`
        : 'no account waits for a statement that a renderer ran out of memory on',
    // A renderer that dies is replaced and the account tried again within seconds.
    for: '2m',
    entails: [],
  },
  mitigate: { worker: 'statement-run', command: ['statement', 'resume', '--all'] },
  drill: {
    // Statements of many right-to-left lines under a logo of nearly six megapixels: the renderer is ended at its limit, and then the
    // host that would have gone on is gone.
    inject: async (world) => {
      await world.configure({ statements: { memoryLimit: LIMIT_MIB } })
      const { tenantId, period } = await world.clinic({ patients: 2, lines: 500, logoSide: LOGO_SIDE })
      const run = world.spawn([
        'statement',
        'run',
        '--tenant',
        tenantId,
        '--period',
        period,
        '--concurrency',
        '1',
      ])
      const deaths = () =>
        world.db.query('select from billing.statement_renderer_death where tenant_id = $1', [tenantId])
      while ((await deaths()).length === 0) await delay(20)
      run.signal('SIGKILL')
      await run.exited
      await world.db.query(
        'update billing.statement_batch set expires_at = now() where expires_at is not null',
      )
      return { tenantId, async [Symbol.asyncDispose]() {} }
    },
    verify: async (world, fault) => {
      const { tenantId } = fault as unknown as Broken
      const store = await openStore(world.app, tenantId)
      const [ended] = await world.db.query<{ deaths: number; least: number; basic: number }>(
        `select (select count(*)::int from billing.statement_renderer_death where cause = 'memory') as deaths,
           (select min(rss_mib) from billing.statement_renderer_death) as least,
           (select count(*)::int from billing.statement where state = 'basic') as basic`,
      )
      const { deaths, least, basic } = ended!
      return [
        ...(await compareStatements({ db: world.db, store }, tenantId)),
        ...(deaths >= 2 && least >= LIMIT_MIB ? [] : [`${deaths} renderers died, at ${least} MiB or more`]),
        ...(basic === 2 ? [] : [`${basic} accounts got a basic PDF`]),
      ]
    },
    deadlineS: { recover: 60 },
  },
})
