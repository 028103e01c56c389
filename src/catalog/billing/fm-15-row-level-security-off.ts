import { randomUUID } from 'node:crypto'
import { unprotectedTables } from '../../domain/isolation/unprotected.ts'
import type { Finding } from '../../finding.ts'
import { fails } from '../../findings-report.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-15',
  kind: 'alert',
  title: 'A migration has switched row-level security off',
  severity: 'page',
  detect: {
    metric: 'billing_unprotected_tables',
    measure: async (app) => {
      const tables = await unprotectedTables(app)
      return { value: tables.length, evidence: { tables: tables.slice(0, 20) } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} table${count === 1 ? '' : 's'} with tenant data without row-level security`
        : 'every table with tenant data has row-level security',
    entails: [],
  },
  mitigate: { command: ['isolation', 'restore', '--yes'] },
  drill: {
    // It reaches the platform past the gate of the pipeline, which must have refused it.
    inject: async (world) => {
      const tenantId = await world.tenant()
      await world.service.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
        await tx.query(
          `insert into billing.charge (tenant_id, patient_id, amount_minor, currency, code)
           values ($1, $2, 50000, 'AFN', 'CONSULT-REMOTE')`,
          [tenantId, randomUUID()],
        )
      })
      await world.owner.query('alter table billing.charge disable row level security')
      const { envelope } = await world.tabib(['isolation', 'check', '--schema', 'billing'])
      const { findings } = (envelope as { result: { findings: Finding[] } }).result
      if (!findings.some((one) => one.object === 'billing.charge' && fails(one))) {
        throw new Error('the gate let the migration through')
      }
      return { async [Symbol.asyncDispose]() {} }
    },
    verify: async (world) => {
      const [seen] = await world.service.query<{ n: number }>('select count(*)::int as n from billing.charge')
      return seen!.n === 0 ? [] : [`a service that set no tenant reads ${seen!.n} charges`]
    },
  },
})
