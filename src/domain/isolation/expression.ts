/** A boolean or scalar expression, as far as isolation cares; what it does not know is `unknown`. */
export type Expression =
  | { kind: 'and' | 'or'; args: Expression[] }
  | { kind: 'compare'; operator: string; left: Expression; right: Expression }
  | { kind: 'in'; left: Expression[]; select: Select }
  | { kind: 'exists'; select: Select }
  | { kind: 'call'; name: string[]; args: Expression[] }
  | { kind: 'cast'; arg: Expression; type: string }
  | { kind: 'column'; path: string[] }
  | { kind: 'literal'; value: string | boolean | null }
  | { kind: 'select'; select: Select }
  | { kind: 'unknown'; text: string }

export interface Select {
  /** What it returns, one expression a column. */
  values: Expression[]
  /** The tables that it joins; empty for a select without `from`. */
  from: { path: string[]; alias: string }[]
  /** What every row fulfils: `where`, and the conditions of inner joins. */
  where?: Expression
}

/**
 * Reads an expression as `pg_get_expr` prints it, or as people write it in a function's body. It never fails: what the
 * grammar does not have (windows, unions …) becomes `unknown`, up to the parenthesis around it, so that nothing
 * is taken for safe by a misreading.
 */
export function parseExpression(text: string): Expression {
  const parser = new Parser(text)
  return parser.whole(() => parser.expression())
}

/** Reads the body of a function that returns one expression: `select …`, `return …`, or PL/pgSQL's `begin return …; end`. */
export function parseFunctionBody(body: string): Expression {
  const text = body
    .replace(/--[^\n]*/g, ' ')
    .replace(/\/\*[\s\S]*?\*\//g, ' ')
    .trim()
  const [, returned] =
    /^begin\s+(?:atomic\s+)?(?:return\s+)?([\s\S]*?);?\s*end\s*;?$/i.exec(text) ??
    /^return\s+([\s\S]*?);?$/i.exec(text) ??
    []
  const source = (returned ?? text).replace(/;\s*$/, '')
  const parser = new Parser(source)
  if (/;/.test(source.replace(/'(?:[^']|'')*'/g, ''))) return { kind: 'unknown', text: source }
  return parser.whole(() =>
    parser.at('select') ? { kind: 'select', select: parser.select() } : parser.expression(),
  )
}

/** Every expression within one, itself first; subselects included. */
export function* within(expression: Expression): Generator<Expression> {
  yield expression
  const inSelect = function* ({ values, where }: Select): Generator<Expression> {
    for (const value of values) yield* within(value)
    if (where) yield* within(where)
  }
  switch (expression.kind) {
    case 'and':
    case 'or':
    case 'call':
      for (const arg of expression.args) yield* within(arg)
      break
    case 'compare':
      yield* within(expression.left)
      yield* within(expression.right)
      break
    case 'in':
      for (const arg of expression.left) yield* within(arg)
      yield* inSelect(expression.select)
      break
    case 'exists':
    case 'select':
      yield* inSelect(expression.select)
      break
    case 'cast':
      yield* within(expression.arg)
  }
}

type Token = { type: 'word' | 'string' | 'number' | 'symbol' | 'end'; text: string; at: number }

const TOKEN =
  /\s*(?:(?<string>[eE]?'(?:[^']|'')*')|(?<quoted>"(?:[^"]|"")*")|(?<word>[\p{L}_][\p{L}\p{N}_$]*|\$\d+)|(?<number>\d+(?:\.\d+)?)|(?<symbol>::|[-+*/<>=~!@#%^&|`?]+|[(),.[\]:;]))/uy

class Parser {
  readonly #text: string
  readonly #tokens: Token[] = []
  #next = 0

  constructor(text: string) {
    this.#text = text
    let end = 0
    TOKEN.lastIndex = 0
    for (let match = TOKEN.exec(text); match; match = TOKEN.exec(text)) {
      const { string, quoted, word, number, symbol } = match.groups!
      const at = end
      end = TOKEN.lastIndex
      if (string !== undefined) {
        const escapes = /^[eE]/.test(string) && string.includes('\\')
        // An escape string may hide anything: it equals no literal that we look for.
        const value = string.replace(/^[eE]?'|'$/g, '').replaceAll("''", "'")
        this.#tokens.push({ type: 'string', text: escapes ? `\0${value}` : value, at })
      } else if (quoted !== undefined) {
        this.#tokens.push({ type: 'word', text: `"${quoted.slice(1, -1).replaceAll('""', '"')}`, at })
      } else if (word !== undefined) this.#tokens.push({ type: 'word', text: word.toLowerCase(), at })
      else if (number !== undefined) this.#tokens.push({ type: 'number', text: number, at })
      else this.#tokens.push({ type: 'symbol', text: symbol!, at })
    }
    const rest = text.slice(end).trim()
    this.#tokens.push({ type: rest === '' ? 'end' : 'symbol', text: rest, at: end })
  }

  whole(read: () => Expression): Expression {
    try {
      const result = read()
      if (this.#peek().type === 'end') return result
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error
    }
    return { kind: 'unknown', text: this.#text }
  }

  at(...words: string[]): boolean {
    return words.every((word, i) => {
      const { type, text } = this.#tokens[this.#next + i] ?? this.#tokens.at(-1)!
      return text === word && (type === 'word' || type === 'symbol')
    })
  }

  expression(): Expression {
    return this.#chain('or', () => this.#chain('and', () => this.#comparison()))
  }

  select(): Select {
    this.#expect('select')
    const values: Expression[] = []
    if (!this.at('from') && !this.at('where'))
      do {
        values.push(this.expression())
        if (this.#take('as') || (this.#peek().type === 'word' && !RESERVED.has(this.#peek().text)))
          this.#name()
      } while (this.#take(','))
    const from: Select['from'] = []
    const conditions: Expression[] = []
    if (this.#take('from'))
      do this.#joined(from, conditions)
      while (this.#take(','))
    if (this.#take('where')) conditions.push(this.expression())
    if (this.#take('limit')) this.#peek().type === 'number' ? this.#advance() : this.#fail()
    const [only, ...more] = conditions
    if (!only) return { values, from }
    return { values, from, where: more.length === 0 ? only : { kind: 'and', args: conditions } }
  }

  /** A table, or tables that are joined: the condition of an outer join restrains no row. */
  #joined(from: Select['from'], conditions: Expression[]): void {
    if (this.#take('(')) {
      this.#joined(from, conditions)
      this.#expect(')')
    } else {
      this.#take('only')
      const path = this.#path()
      const named = this.#take('as') || (this.#peek().type === 'word' && !RESERVED.has(this.#peek().text))
      from.push({ path, alias: named ? this.#name() : path.at(-1)! })
    }
    for (;;) {
      const outer = this.#take('left')
      if (outer) this.#take('outer')
      else this.#take('inner')
      if (!this.#take('join')) return
      const inner: Expression[] = []
      this.#joined(from, inner)
      this.#expect('on')
      inner.push(this.expression())
      if (!outer) conditions.push(...inner)
    }
  }

  #chain(kind: 'and' | 'or', read: () => Expression): Expression {
    const args = [read()]
    while (this.#take(kind)) args.push(read())
    return args.length === 1 ? args[0]! : { kind, args }
  }

  #comparison(): Expression {
    const start = this.#peek().at
    if (this.#take('not')) {
      const not = this.#comparison()
      if (not.kind === 'compare' && not.operator === '<>') return { ...not, operator: '=' }
      return this.#unknownSince(start)
    }
    const left = this.#operand()
    if (this.at('is', 'true')) {
      this.#next += 2
      return left
    }
    if (this.#take('is')) {
      this.#take('not')
      if (this.#take('distinct')) {
        this.#expect('from')
        this.#operand()
      } else if (!['null', 'true', 'false', 'unknown'].includes(this.#advance().text)) this.#fail()
      return this.#unknownSince(start)
    }
    const any = this.at('=', 'any', '(', 'select') || this.at('=', 'some', '(', 'select')
    if (any || this.at('in', '(', 'select')) {
      this.#next += any ? 3 : 2
      const select = this.select()
      this.#expect(')')
      // Of a select that reads no table there is one row.
      const [only, ...more] = select.values
      if (only && more.length === 0 && select.from.length === 0 && !select.where)
        return { kind: 'compare', operator: '=', left, right: only }
      return { kind: 'in', left: [left], select }
    }
    if (this.at('=', 'any', '(', 'array', '[')) {
      this.#next += 5
      const args: Expression[] = []
      do args.push({ kind: 'compare', operator: '=', left, right: this.expression() })
      while (this.#take(','))
      this.#expect(']')
      this.#expect(')')
      return { kind: 'or', args }
    }
    if (this.at('=', 'any', '(')) {
      this.#next += 3
      const right = this.expression()
      this.#expect(')')
      return { kind: 'compare', operator: '= any', left, right }
    }
    const { type, text } = this.#peek()
    if (type === 'symbol' && /^[-+*/<>=~!@#%^&|`?]+$/.test(text)) {
      this.#advance()
      const right = this.#operand()
      // More than one operator in a row is nothing that a tenant's policy needs.
      if (/^[-+*/<>=~!@#%^&|`?]+$/.test(this.#peek().text)) this.#fail()
      return { kind: 'compare', operator: text, left, right }
    }
    return left
  }

  #operand(): Expression {
    let value = this.#cast()
    while (['->', '->>', '#>', '#>>'].some((one) => this.at(one))) {
      const operator = this.#advance().text
      value = { kind: 'compare', operator, left: value, right: this.#cast() }
    }
    return value
  }

  #cast(): Expression {
    let value = this.#primary()
    for (;;) {
      if (this.#take('::')) value = { kind: 'cast', arg: value, type: this.#type() }
      else if (this.#take('collate')) {
        // Others may take what differs for the same.
        if (!['C', 'POSIX', 'default', 'ucs_basic'].includes(this.#path().at(-1)!)) this.#fail()
      } else return value
    }
  }

  #primary(): Expression {
    const { type, text, at } = this.#peek()
    if (type === 'string' || type === 'number') {
      this.#advance()
      return { kind: 'literal', value: text }
    }
    if (text === '(') return this.#parenthesised()
    if (type !== 'word') return this.#fail()
    if (text === 'true' || text === 'false') {
      this.#advance()
      return { kind: 'literal', value: text === 'true' }
    }
    if (text === 'null') {
      this.#advance()
      return { kind: 'literal', value: null }
    }
    if (this.at('exists', '(')) {
      this.#next += 2
      return this.#within(at, () => ({ kind: 'exists', select: this.select() }))
    }
    if (this.at('cast', '(')) {
      this.#next += 2
      return this.#within(at, () => {
        const arg = this.expression()
        this.#expect('as')
        return { kind: 'cast', arg, type: this.#type() }
      })
    }
    if (this.#take('case')) return this.#case()
    if (this.at('trim', '(', 'both', 'from')) {
      this.#next += 4
      return this.#within(at, () => ({ kind: 'call', name: ['btrim'], args: [this.expression()] }))
    }
    if (RESERVED.has(text)) return this.#fail()
    const path = this.#path()
    if (!this.#take('(')) return { kind: 'column', path }
    return this.#within(at, () => {
      const args: Expression[] = []
      if (!this.at(')'))
        do {
          if (this.at('variadic', 'array', '[')) this.#next += 3
          args.push(this.expression())
          this.#take(']')
        } while (this.#take(','))
      return { kind: 'call', name: path, args }
    })
  }

  /** A row passes a `case` only where one of its results lets it, so that it implies no less than all of them do. */
  #case(): Expression {
    const args: Expression[] = []
    while (this.#take('when')) {
      this.expression()
      this.#expect('then')
      args.push(this.expression())
    }
    if (args.length === 0) this.#fail()
    if (this.#take('else')) args.push(this.expression())
    this.#expect('end')
    return { kind: 'or', args }
  }

  #parenthesised(): Expression {
    const { at } = this.#advance()
    return this.#within(at, () =>
      this.at('select') ? { kind: 'select', select: this.select() } : this.expression(),
    )
  }

  /** Reads up to the closing parenthesis; what cannot be read there becomes one unknown. */
  #within(at: number, read: () => Expression): Expression {
    const first = this.#next
    try {
      const value = read()
      this.#expect(')')
      return value
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error
    }
    this.#next = first
    for (let depth = 1; depth > 0; ) {
      const { text, type } = this.#advance()
      if (type === 'end') this.#fail()
      if (type === 'symbol' && text === '(') depth += 1
      if (type === 'symbol' && text === ')') depth -= 1
    }
    return this.#unknownSince(at)
  }

  #type(): string {
    const words = [this.#path().join('.')]
    while (['varying', 'precision', 'with', 'without', 'time', 'zone'].includes(this.#peek().text)) {
      words.push(this.#advance().text)
    }
    if (this.#take('(')) {
      const size = this.#advance().text
      this.#take(',') && this.#advance()
      this.#expect(')')
      words.push(`(${size})`)
    }
    while (this.#take('[')) {
      this.#expect(']')
      words.push('[]')
    }
    return words.join(' ')
  }

  #path(): string[] {
    const path = [this.#name()]
    while (this.#take('.')) path.push(this.#name())
    return path
  }

  #name(): string {
    const { type, text } = this.#peek()
    if (type !== 'word') return this.#fail()
    this.#advance()
    return text.replace(/^"/, '')
  }

  #unknownSince(at: number): Expression {
    return { kind: 'unknown', text: this.#text.slice(at, this.#peek().at).trim() }
  }

  #take(text: string): boolean {
    if (!this.at(text)) return false
    this.#advance()
    return true
  }

  #expect(text: string): void {
    if (!this.#take(text)) this.#fail()
  }

  #peek(): Token {
    return this.#tokens[this.#next] ?? this.#tokens.at(-1)!
  }

  #advance(): Token {
    const token = this.#peek()
    this.#next += 1
    return token
  }

  #fail(): never {
    throw new Unreadable()
  }
}

class Unreadable extends Error {}

const RESERVED = new Set([
  'select',
  'from',
  'where',
  'and',
  'or',
  'not',
  'case',
  'when',
  'then',
  'else',
  'end',
  'array',
  'row',
  'in',
  'is',
  'any',
  'all',
  'some',
  'between',
  'like',
  'ilike',
  'similar',
  'collate',
  'at',
  'union',
  'join',
  'inner',
  'left',
  'right',
  'full',
  'cross',
  'natural',
  'lateral',
  'on',
  'using',
  'with',
  'limit',
  'group',
  'order',
  'having',
  'interval',
  'tablesample',
])
