import { Args } from '@oclif/core'
import { TabibCommand } from '../command.ts'
import { TabibError } from '../errors.ts'
import { DOCUMENT_SCHEMAS, jsonSchemaOf, OUTPUT_SCHEMAS } from '../output-schema.ts'
import { table, toJson } from '../render.ts'

export default class Schema extends TabibCommand<typeof Schema> {
  static override summary =
    'Print the JSON Schema of what --json prints or of a document; without a name, list the schemas.'
  static override examples = [
    '<%= config.bin %> schema',
    '<%= config.bin %> schema envelope > envelope.schema.json',
    '<%= config.bin %> schema tenant > tenant.schema.json',
  ]
  static override args = { name: Args.string({ description: 'which schema' }) }

  async run(): Promise<void> {
    const { name } = this.args
    const schemas = { ...OUTPUT_SCHEMAS, ...DOCUMENT_SCHEMAS }
    const known = Object.keys(schemas) as (keyof typeof schemas)[]
    if (name === undefined) {
      const result = known.map((one) => ({ name: one, describes: schemas[one].description ?? '' }))
      return this.succeed({ result, text: () => table(result, ['name', 'describes']) })
    }
    const found = known.find((one) => one === name)
    if (found === undefined) {
      throw new TabibError('NOT_FOUND', `there is no schema "${name}"; known: ${known.join(', ')}`, {
        suggestions: ['tabib schema'],
      })
    }
    const result = jsonSchemaOf(found)
    this.succeed({ result, text: () => toJson(result) })
  }
}
