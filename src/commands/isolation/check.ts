import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { reportFlags, waiversFlag } from '../../flags.ts'

export default class IsolationCheck extends TabibCommand<typeof IsolationCheck> {
  static override summary = 'Look for every way in which one tenant could reach rows of another.'
  static override description =
    `Reads the catalogs, then tries it as the application's role. Works on any Postgres database from version 13 on.

Exits 1 when a hole is found that nobody waived, so that a pipeline stops. Connects as the owner of the tables (or a
superuser), who must be able to become the application's role; the application's own login cannot see what it is denied.`
  static override examples = [
    '<%= config.bin %> isolation check',
    '<%= config.bin %> isolation check --database-url postgres://owner@db/app --role app --output junit',
    '<%= config.bin %> isolation check --tenant-column org_id --tenant-setting app.org --schema public --schema crm',
  ]
  static override flags = {
    'tenant-column': Flags.string({
      default: 'tenant_id',
      helpValue: '<column>',
      description: 'the column that says whose a row is',
    }),
    'tenant-setting': Flags.string({
      helpValue: '<name>',
      description: 'the setting that policies compare it with; what most of them read when not given',
    }),
    role: Flags.string({
      helpValue: '<role>',
      description: 'the role that the application works as; found where only one can write tenant tables',
    }),
    schema: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      default: [],
      helpValue: '<schema>',
      description: 'only this schema; may be repeated',
    }),
    live: Flags.boolean({
      description: 'try it on this very database, rolled back, and not on a copy of its schema',
    }),
    ...reportFlags,
    waivers: waiversFlag,
  }

  async run(): Promise<void> {
    const { role, schema, live, 'tenant-column': tenantColumn, 'tenant-setting': tenantSetting } = this.flags
    const urlIsGiven = this.flags['database-url'] ?? this.flags['database-url-file']
    const { db, config } = await this.openApp(urlIsGiven === undefined ? 'owner' : 'operator')
    const { checkIsolation } = await import('../../domain/isolation/check.ts')
    const attemptsOn = live ? ('itself' as const) : { copyOf: config.databaseUrl ?? '' }
    await this.report({
      check: 'isolation check',
      version: this.config.version,
      ...(await checkIsolation({ db }, { tenantColumn, tenantSetting, role, schemas: schema, attemptsOn })),
    })
  }
}
