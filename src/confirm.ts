import { createInterface } from 'node:readline/promises'
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
  if (asking.productionContext !== undefined) return confirmProduction(asking.productionContext, what, asking)
  if (asking.yes) return
  if (!asking.mayPrompt) throw missing('CONFIRMATION_REQUIRED', `${what} wants a confirmation`, '--yes')
  if (!/^y(es)?$/i.test(await ask(`${what}. Go ahead? [y/N] `))) throw declined(what)
}

/** @throws TabibError CONFIRMATION_REQUIRED, REASON_REQUIRED */
export async function confirmSevere(
  target: string,
  what: string,
  asking: Asking,
): Promise<{ reason: string }> {
  if (asking.productionContext !== undefined) await confirmProduction(asking.productionContext, what, asking)
  await confirmName(target, `${what}. This cannot be undone. Type ${target} to go ahead: `, what, asking)
  const reason = asking.reason ?? (asking.mayPrompt ? await ask('Reason, for the audit trail: ') : '')
  if (reason.trim() === '') throw missing('REASON_REQUIRED', `${what} wants a reason`, '--reason "<why>"')
  return { reason: reason.trim() }
}

function confirmProduction(context: string, what: string, asking: Asking): Promise<void> {
  const prompt = `"${context}" is a production context. ${what}. Type ${context} to go ahead: `
  return confirmName(context, prompt, `${what} in the production context "${context}"`, asking)
}

async function confirmName(name: string, prompt: string, what: string, asking: Asking): Promise<void> {
  if (asking.confirmed.includes(name)) return
  const flag = `--confirm ${/^[\w./:@-]+$/.test(name) ? name : `'${name}'`}`
  if (!asking.mayPrompt) throw missing('CONFIRMATION_REQUIRED', `${what} wants the name typed`, flag)
  if ((await ask(prompt)).trim() !== name) throw declined(what)
}

async function ask(prompt: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return await terminal.question(prompt)
  } finally {
    terminal.close()
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
