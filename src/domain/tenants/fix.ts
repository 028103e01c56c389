import { type Document, isAlias, isCollection, isSeq, stringify } from 'yaml'

export type Path = readonly (string | number)[]

/** What mends a document, where it is to be put, and what is to be done besides; or a command. */
export type Fix = string | ((Set | Add | Drop) & { at?: Path; note?: string })

/** A value for the place. */
interface Set {
  set: unknown
}
/** One more element for the list at the place. */
interface Add {
  add: unknown
}
/** Nothing is to be left at the place but a comment with this reason. */
interface Drop {
  drop: string
}

/**
 * A fix as text to paste into a document: one whole entry of it, `key: value` or `- element`. Where an entry of that key
 * is there, the text goes in its place; else in among its siblings. What the author has written in one line, in brackets,
 * is given whole.
 */
export function fixText(fix: Fix, path: Path, document: Document): string {
  if (typeof fix === 'string') return fix
  const note = fix.note === undefined ? '' : `    # ${fix.note}`
  let depth = 0
  let node: unknown = document.contents
  while (depth < path.length && isCollection(node) && !node.flow) {
    const child = node.get(path[depth], true)
    if (child === undefined) break
    node = child
    depth += 1
  }
  const rest = path.slice(depth)
  if (rest.length === 0 && 'drop' in fix) return `# ${fix.drop}`
  if (rest.length === 0 && 'add' in fix && isSeq(node) && !node.flow) return `- ${inOneLine(fix.add)}${note}`
  const isWhole = isAlias(node) || (isCollection(node) && node.flow)
  // What is there stays, unless it is itself what is set.
  const before = isWhole ? (node as { toJS(document: Document): unknown }).toJS(document) : undefined
  const entry = isWhole || rest.length === 0 ? depth - 1 : depth
  const value = changed(before, path.slice(isWhole ? depth : entry + 1), fix)
  const key = path[entry]
  const name = key === undefined ? '' : typeof key === 'number' ? '- ' : `${key}: `
  // Others refer to it.
  const anchor = isWhole && isCollection(node) && node.anchor ? `&${node.anchor} ` : ''
  return `${name}${anchor}${inOneLine(value)}${note}`
}

function changed(value: unknown, [step, ...rest]: Path, fix: Set | Add | Drop): unknown {
  if (step === undefined && 'set' in fix) return fix.set
  if (step === undefined && 'add' in fix) return [...(Array.isArray(value) ? value : []), fix.add]
  if (Array.isArray(value) && rest.length === 0 && 'drop' in fix) return value.toSpliced(step as number, 1)
  if (Array.isArray(value)) return value.with(step as number, changed(value[step as number], rest, fix))
  const members = (value ?? {}) as Record<string, unknown>
  return { ...members, [step!]: changed(members[step!], rest, fix) }
}

const inOneLine = (value: unknown): string =>
  stringify(value, { collectionStyle: 'flow', lineWidth: 0 }).trimEnd()
