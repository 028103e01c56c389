import { TabibError } from '../../errors.ts'
import { type StatementDocument, statementSchema } from './statement.ts'

// A wrong export is wrong on every line; the first few tell as much.
const PROBLEMS_TOLD = 10

/** Reads a statement as JSON. @throws TabibError STATEMENT_INVALID with the first problems, each with its path. */
export function parseStatement(json: string, file: string): StatementDocument {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch (cause) {
    throw invalid(file, [syntaxProblem(json, cause as Error)])
  }
  const parsed = statementSchema.safeParse(value)
  if (parsed.success) return parsed.data
  throw invalid(
    file,
    parsed.error.issues.map(({ path, message }) => `${pathOf(path)}: ${message}`),
  )
}

function invalid(file: string, problems: string[]): TabibError {
  const told = problems.slice(0, PROBLEMS_TOLD)
  const more = problems.length - told.length
  const lines = [...told, ...(more > 0 ? [`and ${more} more`] : [])].map((problem) => `  ${problem}`)
  return new TabibError('STATEMENT_INVALID', `${file} is no statement:\n${lines.join('\n')}`, {
    suggestions: ['tabib schema statement > statement.schema.json'],
    context: { problems: told },
  })
}

/** `lines[3].currency`. */
function pathOf(path: readonly PropertyKey[]): string {
  const text = path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`)).join('')
  return text.replace(/^\./, '') || 'the document'
}

/** Where JSON ends to be JSON. The parser's own message quotes the document, and with it a patient. */
function syntaxProblem(json: string, error: Error): string {
  const position = /at position (\d+)/.exec(error.message)?.[1]
  if (position === undefined) return 'it is not JSON'
  const before = json.slice(0, Number(position)).split('\n')
  return `it is not JSON from line ${before.length}, column ${before.at(-1)!.length + 1} on`
}
