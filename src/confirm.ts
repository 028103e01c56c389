import { createInterface, type Interface } from 'node:readline'
import { TabibError } from './errors.ts'

/** What was said on the command line, and whether anybody can be asked for the rest. */
export interface Asking {
  yes: boolean
  /** Every `--confirm`. */
  confirmed: readonly string[]
  reason: string | undefined
  /** The context's name when it is a production one. */
  productionContext: string | undefined
  /** stdin is a terminal and `--no-input` was not given. */
  mayPrompt: boolean
}

/** @throws TabibError CONFIRMATION_REQUIRED */
export async function confirmModerate(what: string, asking: Asking): Promise<void> {
  const prompt = openPrompt()
  try {
    if (asking.productionContext !== undefined) {
      await confirmProduction(asking.productionContext, what, asking, prompt)
      return
    }
    if (asking.yes) return
    if (!asking.mayPrompt) throw missing('CONFIRMATION_REQUIRED', `${what} wants a confirmation`, '--yes')
    if (!/^y(es)?$/i.test(await prompt.ask(`${what}. Go ahead? [y/N] `))) throw declined(what)
  } finally {
    prompt.close()
  }
}

/** @throws TabibError CONFIRMATION_REQUIRED, REASON_REQUIRED */
export async function confirmSevere(
  target: string,
  what: string,
  asking: Asking,
): Promise<{ reason: string }> {
  const prompt = openPrompt()
  try {
    if (asking.productionContext !== undefined) {
      await confirmProduction(asking.productionContext, what, asking, prompt)
    }
    const question = `${what}. This cannot be undone. Type ${target} to go ahead: `
    await confirmName(target, question, what, asking, prompt)
    const given = asking.reason ?? (asking.mayPrompt ? await prompt.ask('Reason, for the audit trail: ') : '')
    const reason = given.trim()
    if (reason === '') throw missing('REASON_REQUIRED', `${what} wants a reason`, '--reason "<why>"')
    return { reason }
  } finally {
    prompt.close()
  }
}

type Prompt = ReturnType<typeof openPrompt>

function confirmProduction(context: string, what: string, asking: Asking, prompt: Prompt): Promise<void> {
  const question = `"${context}" is a production context. ${what}. Type ${context} to go ahead: `
  return confirmName(context, question, `${what} in the production context "${context}"`, asking, prompt)
}

async function confirmName(
  name: string,
  question: string,
  what: string,
  asking: Asking,
  prompt: Prompt,
): Promise<void> {
  if (asking.confirmed.includes(name)) return
  const flag = `--confirm ${/^[\w./:@-]+$/.test(name) ? name : `'${name}'`}`
  if (!asking.mayPrompt) throw missing('CONFIRMATION_REQUIRED', `${what} wants the name typed`, flag)
  if ((await prompt.ask(question)).trim() !== name) throw declined(what)
}

/**
 * One conversation with the terminal: lines that were pasted together answer one prompt each. Not a line editor, so
 * that Ctrl-C stays a signal.
 */
function openPrompt(): { ask(prompt: string): Promise<string>; close(): void } {
  let terminal: Interface | undefined
  let lines: AsyncIterator<string> | undefined
  return {
    async ask(prompt) {
      terminal ??= createInterface({ input: process.stdin, terminal: false })
      lines ??= terminal[Symbol.asyncIterator]()
      process.stderr.write(prompt)
      const { value, done } = await lines.next()
      return done ? '' : value
    },
    close: () => terminal?.close(),
  }
}

function missing(code: 'CONFIRMATION_REQUIRED' | 'REASON_REQUIRED', what: string, flag: string): TabibError {
  return new TabibError(code, `${what}, and nobody can be asked here: ${flag} is missing`, {
    suggestions: [`the same command with ${flag}`],
    retryable: false,
    context: { missingFlag: flag },
  })
}

function declined(what: string): TabibError {
  return new TabibError('CONFIRMATION_REQUIRED', `${what}: not confirmed, nothing was changed`)
}
