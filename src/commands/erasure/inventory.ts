import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { listInventory } from '../../domain/erasure/inventory/index.ts'
import { reportFlags, waiversFlag } from '../../flags.ts'
import { table } from '../../render.ts'

export default class ErasureInventory extends TabibCommand<typeof ErasureInventory> {
  static override summary =
    'What the platform stores of patients, and how it is erased; --check holds it against what there is.'
  static override description =
    `Every column, member of stored JSON, stream, Redis key and store: what it says of a patient (subject-key, personal,
pseudonymous, none), how long it is kept, which law holds it, and which participant erases it.

With --check it is held against the live database, JetStream and Redis: exit 1 for anything there that is not classified,
and for anything classified that is not there. Of a large table a random part of its JSON is read. No value is shown.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --class personal',
    '<%= config.bin %> <%= command.id %> --check --output junit > inventory.xml',
    '<%= config.bin %> <%= command.id %> --check --all-rows --waivers inventory-waivers.yaml',
  ]
  static override flags = {
    check: Flags.boolean({ description: 'hold it against the live database, JetStream and Redis' }),
    'all-rows': Flags.boolean({
      description: 'read the JSON of every row, however large a table is',
      dependsOn: ['check'],
    }),
    class: Flags.option({
      options: ['subject-key', 'personal', 'pseudonymous', 'none'] as const,
      description: 'only what is of this class',
      exclusive: ['check'],
    })(),
    participant: Flags.string({
      helpValue: '<name>',
      description: 'only what this participant erases',
      exclusive: ['check'],
    }),
    ...reportFlags,
    waivers: waiversFlag,
  }

  async run(): Promise<void> {
    if (this.flags.check) return this.#check()
    const { class: only, participant } = this.flags
    const all = listInventory()
    const known: string[] = [...new Set(all.flatMap(({ erasure }) => erasure?.by ?? []))].sort()
    if (participant !== undefined && !known.includes(participant)) {
      this.error(`nothing is erased by "${participant}"; participants are ${known.join(', ')}`, { exit: 2 })
    }
    const items = all
      .filter((item) => only === undefined || item.class === only)
      .filter((item) => participant === undefined || item.erasure?.by === participant)
    this.succeed({
      result: items,
      text: () =>
        table(
          items.map(({ erasure, ...item }) => ({ ...item, 'erased by': erasure?.by, how: erasure?.how })),
          ['object', 'class', 'retention', 'erased by', 'how', 'hold'],
        ),
    })
  }

  async #check(): Promise<void> {
    const app = await this.openApp()
    const { checkInventory } = await import('../../domain/erasure/inventory/check.ts')
    const { natsUrl, redisCacheUrl, redisUrl } = app.config
    const report = await checkInventory(
      {
        db: app.db,
        nats: natsUrl === undefined ? undefined : app.nats,
        redis: { cache: redisCacheUrl, queue: redisUrl },
      },
      { allRows: this.flags['all-rows'], signal: this.signal },
    )
    await this.report({
      check: 'erasure inventory',
      subject: app.config.context,
      version: this.config.version,
      ...report,
    })
  }
}
