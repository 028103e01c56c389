import { type Command, Parser } from '@oclif/core'

/** Where commands are found by id (`outbox:relay`): oclif's configuration is one. */
export interface CommandFinder {
  findCommand(id: string): { load(): Promise<Command.Class> } | undefined
}

/**
 * Why `tabib …argv` would not parse: no such command, an unknown flag, a missing or superfluous argument. Undefined
 * when it parses. Nothing is run.
 */
export async function commandProblem(
  commands: CommandFinder,
  argv: readonly string[],
): Promise<string | undefined> {
  const words = argv.findIndex((word) => word.startsWith('-'))
  const most = words === -1 ? argv.length : words
  for (let length = most; length > 0; length--) {
    const command = commands.findCommand(argv.slice(0, length).join(':'))
    if (!command) continue
    const { flags, baseFlags, args, strict } = await command.load()
    try {
      await Parser.parse([...argv.slice(length)], { flags: { ...baseFlags, ...flags }, args, strict })
      return undefined
    } catch (error) {
      return `"tabib ${argv.join(' ')}" does not parse: ${error instanceof Error ? error.message.split('\n')[0] : error}`
    }
  }
  return `"tabib ${argv.join(' ')}" names no command`
}
