import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  visit,
} from 'yaml'
import type * as z from 'zod'
import { TabibError } from '../../errors.ts'
import { nearest } from '../../nearest.ts'
import { counted } from '../../render.ts'
import { type Tenant, tenantSchema } from './tenant.ts'

/** Why a document is no tenant's. */
export interface DocumentProblem {
  line: number
  /** `priceLists.0.from`; empty for the document itself. */
  path: string
  message: string
}

export type ParsedTenant =
  | {
      kind: 'tenant'
      tenant: Tenant
      document: Document
      lineOf(path: readonly (string | number)[]): number
    }
  | { kind: 'invalid'; problems: DocumentProblem[] }

const MAX_CHARACTERS = 1_000_000
// Enough for a few shared blocks; what expands beyond it is a bomb.
const MAX_ALIASES = 100

/** Reads one `tenant.yaml`; what is wrong with it is told all at once, with lines. Needs no server. */
export function parseTenant(text: string): ParsedTenant {
  if (text.length > MAX_CHARACTERS) {
    return invalid(1, `is ${text.length} characters long; a tenant has at most ${MAX_CHARACTERS}`)
  }
  const foreign = text.indexOf('\uFFFD')
  if (foreign >= 0) return invalid(text.slice(0, foreign).split('\n').length, 'is not UTF-8 from here on')
  try {
    return parse(text)
  } catch (error) {
    // Aliases that expand without end.
    return invalid(1, inWords((error as Error).message))
  }
}

function parse(text: string): ParsedTenant {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, merge: true })
  const flaws = [...document.errors, ...document.warnings, ...flawedNodes(document)]
  if (flaws.length > 0) {
    const problems = flaws.map(({ pos: [at], message, code }) => ({
      line: lines.linePos(at).line,
      path: '',
      message:
        code === 'MULTIPLE_DOCS'
          ? 'a second document begins here; one file holds one tenant'
          : code === 'DUPLICATE_KEY'
            ? `${/^[^:\s]*/.exec(text.slice(at))} stands twice`
            : inWords(message),
    }))
    return { kind: 'invalid', problems }
  }
  if (!isMap(document.contents)) return invalid(1, 'holds no tenant; it begins with "slug: <slug>"')
  const lineOf = (path: readonly PropertyKey[]) => lines.linePos(offsetOf(document, path)).line
  const parsed = tenantSchema.safeParse(document.toJS({ maxAliasCount: MAX_ALIASES }), { reportInput: true })
  if (parsed.success) return { kind: 'tenant', tenant: parsed.data, document, lineOf }
  const problems = schemaProblems(parsed.error).map(({ path, message }) => ({
    line: lineOf(path),
    path: path.join('.'),
    message,
  }))
  return { kind: 'invalid', problems: problems.sort((a, b) => a.line - b.line) }
}

/** What to say of files that hold no tenant: all problems at once, each where an editor finds it. */
export function tenantInvalid(problems: readonly (DocumentProblem & { file: string })[]): TabibError {
  const lines = problems.map(({ file, line, path, message }) =>
    [`  ${file}:${line}:`, ...(path === '' ? [] : [`${path}:`]), message].join(' '),
  )
  return new TabibError(
    'TENANT_INVALID',
    `${counted(problems.length, 'problem')} in what should describe a tenant:\n${lines.join('\n')}`,
    { suggestions: ['tabib schema tenant', 'docs/onboarding.md'], context: { problems } },
  )
}

/** Where a document breaks the schema, one element a problem; a key that is not known gets one of its own. */
export function schemaProblems(error: z.ZodError): { path: PropertyKey[]; message: string }[] {
  return error.issues.flatMap((issue) => {
    if (issue.code !== 'unrecognized_keys') return [{ path: issue.path, message: told(issue) }]
    return issue.keys.map((key) => {
      const meant = nearest(key, knownKeys(issue.path))
      const hint = meant === undefined ? '' : `; did you mean ${meant}?`
      return { path: [...issue.path, key], message: `is not known${hint}` }
    })
  })
}

/** What the schema's library says, in an operator's words. */
function told(issue: z.core.$ZodIssue): string {
  const { input } = issue
  const isDigits = typeof input === 'string' && /^[\p{Nd}.:TZ+-]+$/u.test(input) && /[^\0-\x7f]/.test(input)
  const hint = isDigits ? `; write the digits of ${input} as 0 to 9` : ''
  if (issue.code === 'invalid_type') {
    const kinds: Record<string, string> = {
      array: 'a list',
      object: 'names with values',
      record: 'names with values',
      int: 'a whole number',
    }
    const wanted = kinds[issue.expected] ?? (issue.expected === 'string' ? 'text' : `a ${issue.expected}`)
    return input === undefined ? `is missing: ${wanted}` : `must be ${wanted}${hint}`
  }
  if (issue.code === 'invalid_value') return `must be one of ${issue.values.join(', ')}`
  if (issue.code === 'too_small' && issue.origin !== 'string') return `must be at least ${issue.minimum}`
  return `${issue.message}${hint}`
}

/** What the parser lets pass: aliases of nothing, and text that no database stores. */
function flawedNodes(document: Document): { pos: [number, number]; message: string; code: string }[] {
  const found: { pos: [number, number]; message: string; code: string }[] = []
  const report = (node: Node, message: string) => {
    const [from = 0, to = 0] = node.range ?? []
    found.push({ pos: [from, to], message, code: 'NODE' })
  }
  visit(document, {
    Alias: (_, node) => {
      if (node.resolve(document) === undefined)
        report(node, `*${node.source} stands for nothing: &${node.source} is not set before it`)
    },
    Scalar: (_, node) => {
      if (typeof node.value === 'string' && node.value.includes('\0')) report(node, 'holds a NUL character')
    },
  })
  return found
}

/** The names that the schema has at a path. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let at: z.core.$ZodType = tenantSchema
  for (const step of path) {
    at = unwrap(at)
    const { def } = at._zod as {
      def: { shape?: Record<PropertyKey, z.core.$ZodType>; element?: z.core.$ZodType }
    }
    const next = def.shape?.[step] ?? def.element
    if (next === undefined) return []
    at = next
  }
  const { def } = unwrap(at)._zod as { def: { shape?: object } }
  return Object.keys(def.shape ?? {})
}

function unwrap(type: z.core.$ZodType): z.core.$ZodType {
  const { innerType } = type._zod.def as { innerType?: z.core.$ZodType }
  return innerType === undefined ? type : unwrap(innerType)
}

/** Where the last part of a path that is there begins. */
function offsetOf(document: Document, path: readonly PropertyKey[]): number {
  let node = document.contents as Node | null
  let at = node
  for (const step of path) {
    if (isAlias(node)) node = node.resolve(document) ?? null
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === step)
      if (pair === undefined) break
      at = pair.key as Node
      node = pair.value as Node | null
    } else if (isSeq(node)) {
      const item = node.items[step as number] as Node | undefined
      if (item === undefined) break
      at = item
      node = item
    } else break
  }
  return at?.range?.[0] ?? 0
}

const inWords = (message: string): string => (/call stack/.test(message) ? 'is nested too deeply' : message)

function invalid(line: number, message: string): ParsedTenant {
  return { kind: 'invalid', problems: [{ line, path: '', message }] }
}
