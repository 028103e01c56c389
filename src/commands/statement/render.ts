import { createWriteStream } from 'node:fs'
import { lstat, rename, rm } from 'node:fs/promises'
import { finished } from 'node:stream/promises'
import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { TabibError } from '../../errors.ts'
import { details } from '../../render.ts'
import { readTextFile } from '../../text-file.ts'

export default class StatementRender extends TabibCommand<typeof StatementRender> {
  static override summary = "Print one account's statement as PDF. Needs no server."
  static override description =
    `Reads the statement from a JSON file (tabib schema statement) in Dari, Pashto, Arabic or English. The same input gives
the same bytes. Exits 1 when something is not printed as it was given, as a character that no font has.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --input statement.json --file statement.pdf',
    '<%= config.bin %> <%= command.id %> --input statement.json --file statement.pdf --basic',
  ]
  static override flags = {
    input: Flags.string({ required: true, helpValue: '<file>', description: 'the statement, as JSON' }),
    file: Flags.string({ required: true, helpValue: '<file>', description: 'the PDF to write' }),
    basic: Flags.boolean({
      description: 'one font, no logo, no tags, no decoration; words and figures are the same',
    }),
  }

  async run(): Promise<void> {
    const { input, file, basic } = this.flags
    const [{ parseStatement }, { openFonts }, { renderStatement }] = await Promise.all([
      import('../../domain/statements/parse.ts'),
      import('../../domain/statements/fonts.ts'),
      import('../../domain/statements/render.ts'),
    ])
    const statement = parseStatement(await readTextFile(input), input)
    // Whoever looks at a file sees the old one or the whole new one; what is none, as /dev/stdout, is not replaced.
    const isReplaced = await lstat(file).then(
      (found) => found.isFile(),
      () => true,
    )
    const draft = isReplaced ? `${file}.${process.pid}` : file
    const out = createWriteStream(draft)
    try {
      const { pages, lines, flaws } = await renderStatement(openFonts(), statement, { out, basic })
      out.end()
      await finished(out)
      if (isReplaced) await rename(draft, file)
      this.succeed({
        result: { file, pages, lines, flaws },
        status: flaws.length > 0 ? 'findings' : 'ok',
        warnings: flaws.map(({ flaw, place }) => `${place}: ${flaw}`),
        text: () => details({ file, pages, lines }),
      })
    } catch (error) {
      if (isReplaced) await rm(draft, { force: true })
      if (out.errored === null) throw error
      throw new TabibError('USAGE', `cannot write ${file}: ${(out.errored as NodeJS.ErrnoException).code}`, {
        cause: error,
      })
    }
  }
}
