import { setTimeout as delay } from 'node:timers/promises'
import { compareStatements } from '../../domain/statements/compare.ts'
import { lateRuns } from '../../domain/statements/runs.ts'
import { openStore } from '../../domain/statements/store.ts'
import { failureMode } from '../failure-mode.ts'

const ACCOUNTS = 120

interface Hung extends AsyncDisposable {
  tenantId: string
  wake(): void
}

export default failureMode({
  id: 'billing/FM-11',
  kind: 'alert',
  title: 'A statement run did not finish in time',
  severity: 'ticket',
  detect: {
    metric: 'billing_statement_runs_late',
    measure: async (app) => {
      const late = await lateRuns(app)
      const runs = late
        .slice(0, 20)
        .map(({ id, tenant, period, pending }) => `${id} ${tenant} ${period}: ${pending} pending`)
      return { value: late.length, evidence: { runs } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} statement run${count === 1 ? ' has' : 's have'} not finished in time, or not moved for 15 minutes`
        : 'no statement run is late',
    entails: [],
  },
  mitigate: { worker: 'statement-run', command: ['statement', 'resume', '--all'] },
  drill: {
    // The host that works on a run hangs in the middle of it, and nobody looks for five hours.
    inject: async (world) => {
      const { tenantId, period } = await world.clinic({ patients: ACCOUNTS, lines: 5 })
      const hung = world.spawn([
        ...['statement', 'run', '--tenant', tenantId, '--period', period],
        ...['--batch-size', '10', '--concurrency', '1'],
      ])
      const left = async () => {
        const [row] = await world.db.query<{ settled: number; pending: number }>(
          `select count(*) filter (where state <> 'pending')::int as settled,
             count(*) filter (where state = 'pending')::int as pending
           from billing.statement where tenant_id = $1`,
          [tenantId],
        )
        return row!
      }
      while ((await left()).settled < 3) await delay(20)
      hung.signal('SIGSTOP')
      await world.owner.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
        await tx.query(`update billing.statement_run set started_at = started_at - interval '5 hours'`)
        await tx.query('update billing.statement_batch set expires_at = now() where expires_at is not null')
      })
      return {
        tenantId,
        wake: () => hung.signal('SIGCONT'),
        [Symbol.asyncDispose]: () => hung[Symbol.asyncDispose](),
      }
    },
    verify: async (world, fault) => {
      const { tenantId, wake } = fault as unknown as Hung
      // Whoever comes back finds everything done.
      wake()
      return compareStatements({ db: world.db, store: await openStore(world.app, tenantId) }, tenantId)
    },
  },
})
