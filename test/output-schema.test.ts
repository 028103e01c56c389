import { beforeAll, expect, inject, test } from 'vitest'
import { raiseIncident } from '../src/domain/incident/raise.ts'
import { DOCUMENT_SCHEMAS, jsonSchemaOf, OUTPUT_SCHEMAS } from '../src/output-schema.ts'
import { useDatabase } from './support/database.ts'
import { runLine } from './support/line.ts'

const database = useDatabase()

const json = async (...argv: string[]) => {
  const env = { TABIB_DATABASE_URL: database.url('tabib'), TABIB_NATS_URL: inject('natsUrl') }
  const { stdout } = await runLine([...argv, '--json'], env)
  return JSON.parse(stdout)
}

let incidentId: string
beforeAll(async () => {
  const { id } = await raiseIncident(database.db, {
    dedupeKey: 'k',
    severity: 'page',
    mode: 'billing/FM-18',
    title: 'An event was quarantined',
  })
  incidentId = id
})

test('what commands print is what the published schemas say', async () => {
  const acked = await json('incident', 'ack', incidentId)
  OUTPUT_SCHEMAS.envelope.parse(acked)
  OUTPUT_SCHEMAS.incident.parse(acked.result)

  const listed = await json('incident', 'list')
  OUTPUT_SCHEMAS.incident.array().min(1).parse(listed.result)

  const trail = await json('audit', 'list')
  OUTPUT_SCHEMAS.audit.array().length(2).parse(trail.result)

  const verified = await json('audit', 'verify')
  expect(verified.status).toBe('ok')
  OUTPUT_SCHEMAS.findings.parse(verified.result)

  const examined = await json('doctor')
  expect(examined.status).toBe('findings')
  OUTPUT_SCHEMAS.findings.parse(examined.result)

  OUTPUT_SCHEMAS.error.parse(await json('incident', 'show', 'nonsense'))
})

test('doctor finds a migrated database and its streams in order', async () => {
  const { result } = await json('doctor')
  const outcomes = Object.fromEntries(
    result.checks.map(({ name, outcome }: { name: string; outcome: string }) => [name, outcome]),
  )
  expect(outcomes).toMatchObject({
    package: 'ok',
    Postgres: 'ok',
    clock: 'ok',
    NATS: 'ok',
    'schema and streams': 'ok',
  })
})

test('every schema is printed as JSON Schema that allows fields to be added', async () => {
  const { result } = await json('schema')
  expect(result.map(({ name }: { name: string }) => name)).toEqual([
    ...Object.keys(OUTPUT_SCHEMAS),
    ...Object.keys(DOCUMENT_SCHEMAS),
  ])
  for (const name of Object.keys(OUTPUT_SCHEMAS) as (keyof typeof OUTPUT_SCHEMAS)[]) {
    expect(jsonSchemaOf(name)).toMatchObject({ type: 'object', additionalProperties: {} })
  }
  expect((await json('schema', 'envelope')).result).toEqual(jsonSchemaOf('envelope'))
  expect((await json('schema', 'nonsense')).error.code).toBe('NOT_FOUND')
})
