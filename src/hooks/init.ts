import type { Hook } from '@oclif/core'
import { TabibError } from '../errors.ts'

/**
 * Refuses a word that is no command. oclif itself answers `tabib dlq redrvie` with the topic's help and exit code 0,
 * which a script would take for success.
 */
const init: Hook.Init = async ({ id, argv, config }) => {
  if (id === undefined || id.startsWith('-') || id === 'help' || config.findCommand(id)) return
  const rest = argv.find((word) => !word.startsWith('-'))
  const isTopic = config.findTopic(id) !== undefined
  if (isTopic && rest === undefined) return
  const wanted = (isTopic ? `${id}:${rest}` : id).replaceAll(':', ' ')
  const near = nearest(
    wanted,
    config.commandIDs.map((known) => known.replaceAll(':', ' ')),
  )
  const suggestions = near === undefined ? [] : [`${config.bin} ${near}`]
  const error = new TabibError('USAGE', `there is no command "${wanted}"`, {
    suggestions: [
      ...suggestions,
      isTopic ? `${config.bin} ${id.replaceAll(':', ' ')} --help` : `${config.bin} --help`,
    ],
  })
  // oclif passes on what a hook throws only when it carries an exit code.
  throw Object.assign(error, { oclif: { exit: error.exitCode } })
}

export default init

/** The known word at the smallest edit distance, when it is close enough to be meant. */
function nearest(word: string, known: readonly string[]): string | undefined {
  let best: { word: string; distance: number } | undefined
  for (const candidate of known) {
    const distance = editDistance(word, candidate)
    if (best === undefined || distance < best.distance) best = { word: candidate, distance }
  }
  return best !== undefined && best.distance <= Math.max(2, word.length / 3) ? best.word : undefined
}

/** Levenshtein's distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, replaced))
    }
    row = next
  }
  return row[b.length]!
}
