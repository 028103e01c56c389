import type { Hook } from '@oclif/core'
import { TabibError } from '../errors.ts'
import { nearest } from '../nearest.ts'

/**
 * Refuses a word that is no command. oclif itself answers `tabib dlq redrvie` with the topic's help and exit code 0,
 * which a script would take for success.
 */
const init: Hook.Init = async ({ id, argv, config }) => {
  if (id === undefined || id.startsWith('-') || id === 'help' || config.findCommand(id)) return
  const rest = argv.find((word) => !word.startsWith('-'))
  const isTopic = config.findTopic(id) !== undefined
  if (isTopic && rest === undefined) return
  const words = (isTopic ? `${id}:${rest}` : id).split(':')
  const known = [...config.commandIDs, ...config.topics.map(({ name }) => name)]
  const meant = nearest(words.join(':'), known)
  const topic = words.slice(0, -1)
  const suggestions = [
    ...(meant === undefined ? [] : [[config.bin, ...meant.split(':')].join(' ')]),
    [config.bin, ...(config.findTopic(topic.join(':')) ? topic : []), '--help'].join(' '),
  ]
  const error = new TabibError('USAGE', `there is no command "${words.join(' ')}"`, { suggestions })
  // oclif passes on what a hook throws only when it carries an exit code.
  throw Object.assign(error, { oclif: { exit: error.exitCode } })
}

export default init
