import { type AnyNode, iterator, parse } from '@humanwhocodes/momoa'
import { TabibError } from '../errors.ts'

/**
 * Parses JSON (RFC 8259), and refuses what two readers may understand in two ways, as I-JSON does (RFC 7493): a member
 * that is given twice in one object, of which `JSON.parse` keeps the last, and a number that it rounds. A NUL, which Postgres
 * takes in no text, is refused as well.
 * @throws TabibError USAGE with the member or number and its place.
 */
export function parseExactJson(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text)
    refuseAmbiguous(text)
    return value
  } catch (cause) {
    if (cause instanceof TabibError) throw cause
    throw new TabibError('USAGE', `the body is not JSON: ${(cause as Error).message}`, { cause })
  }
}

function refuseAmbiguous(text: string): void {
  for (const step of iterator(parse(text, { mode: 'json' }))) {
    if (step.phase !== 'enter') continue
    const node = step.node as AnyNode
    const { line, column, offset } = node.loc.start
    const refuse = (what: string) =>
      new TabibError('USAGE', `the body is ambiguous: ${what} at line ${line}, column ${column}`)
    if (node.type === 'Number') {
      const written = text.slice(offset, node.loc.end.offset)
      if (digitsOf(written) === digitsOf(String(node.value))) continue
      throw refuse(`the number ${written} would be read as ${node.value}; write it as a string`)
    }
    if (node.type === 'String' && node.value.includes('\0'))
      throw new TabibError('USAGE', `the body has a NUL (\\u0000) at line ${line}, which no text may hold`)
    if (node.type !== 'Object') continue
    const names = node.members.map(({ name }) => (name.type === 'String' ? name.value : name.name))
    const twice = names.find((name, i) => names.indexOf(name) !== i)
    if (twice !== undefined) throw refuse(`${JSON.stringify(twice)} is given twice in the object`)
  }
}

/** A number's sign, significant digits and exponent, equal however it is written. */
function digitsOf(number: string): string | undefined {
  const [, sign, whole = '', fraction = '', exponent = '0'] =
    /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i.exec(number) ?? []
  const digits = (whole + fraction).replace(/^0+/, '')
  const significant = digits.replace(/0+$/, '')
  if (significant === '') return whole && '0'
  return `${sign}${significant}e${BigInt(exponent) - BigInt(fraction.length - digits.length + significant.length)}`
}
