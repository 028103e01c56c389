import { parse } from 'yaml'
import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { openPatientDataFinder } from './patient-data.ts'
import { type NewTemplate, newTemplateSchema } from './template.ts'

/** A new version of a template out of YAML or JSON. @throws TabibError MESSAGE_INVALID with every problem at once. */
export function parseTemplate(text: string): NewTemplate {
  let given: unknown
  try {
    given = parse(text)
  } catch (cause) {
    throw invalid([`it is no YAML: ${(cause as Error).message.split('\n')[0]}`])
  }
  const parsed = newTemplateSchema.safeParse(given)
  if (!parsed.success) {
    throw invalid(parsed.error.issues.map(({ path, message }) => `${path.join('.') || '(root)'}: ${message}`))
  }
  const { subject, body } = parsed.data
  const kinds = openPatientDataFinder([]).kindsIn(`${subject ?? ''}\n${body}`)
  if (kinds.length > 0) throw invalid([`its text holds patient data: ${kinds.join(', ')}`])
  return parsed.data
}

/** Puts a new version into use; one that says the same as the version in use is that version. */
export async function publishTemplate(
  { db }: { db: Database },
  template: NewTemplate,
  by: string,
): Promise<{ version: number; before: number | null }> {
  return db.transaction(async (tx) => {
    await tx.query(`select pg_advisory_xact_lock(hashtextextended('template ' || $1, 0))`, [template.id])
    const before = await currentVersion(tx, template)
    if (before?.isSame) return { version: before.version, before: before.version }
    await tx.query(
      `update communication.template set state = 'superseded' where id = $1 and state = 'current'`,
      [template.id],
    )
    const { id, channel, category, subject, body, variables } = template
    const [added] = await tx.query<{ version: number }>(
      `insert into communication.template (id, version, channel, category, subject, body, variables, published_by)
       select $1, coalesce(max(version), 0) + 1, $2, $3, $4, $5, $6, $7 from communication.template where id = $1
       returning version`,
      [id, channel, category, subject ?? null, body, JSON.stringify(variables), by],
    )
    return { version: added!.version, before: before?.version ?? null }
  })
}

async function currentVersion(
  tx: Transaction,
  { id, channel, category, subject, body, variables }: NewTemplate,
) {
  const [current] = await tx.query<{ version: number; isSame: boolean }>(
    `select version, (channel, category, subject, body, variables) is not distinct from ($2, $3, $4, $5, $6::jsonb) as "isSame"
     from communication.template where id = $1 and state = 'current'`,
    [id, channel, category, subject ?? null, body, JSON.stringify(variables)],
  )
  return current
}

const invalid = (problems: string[]) =>
  new TabibError(
    'MESSAGE_INVALID',
    `the template is refused:\n${problems.map((one) => `  ${one}`).join('\n')}`,
    {
      suggestions: ['docs/phi-guard.md'],
      context: { problems },
      retryable: false,
    },
  )
