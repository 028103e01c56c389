import { Args, Flags } from '@oclif/core'
import { TabibError } from './errors.ts'
import { REPORT_FORMATS } from './findings-report.ts'

/** A moment: ISO 8601 (`2026-11-22T03:00Z`), or a duration ago (`2h`). */
export const timeFlag = Flags.custom<Date>({
  helpValue: '<time>',
  parse: async (text) => {
    if (/^\d+(ms|s|m|h|d)$/.test(text)) {
      const { parseDuration } = await import('./config.ts')
      return new Date(Date.now() - parseDuration(text))
    }
    const time = isDay(text.slice(0, 10)) ? new Date(text) : new Date(Number.NaN)
    if (!Number.isNaN(time.getTime())) return time
    throw new TabibError('USAGE', `"${text}" is no time; write 2026-11-22T03:00Z, or 2h for two hours ago`)
  },
})

/** A day of the calendar, and no 30 February, of which `Date` makes another. */
function isDay(text: string): boolean {
  const day = /^\d{4}-\d{2}-\d{2}$/.test(text) ? new Date(text) : new Date(Number.NaN)
  return !Number.isNaN(day.getTime()) && day.toISOString().startsWith(text)
}

/** Which keys: those that sign the tokens of one purpose. */
export const purposeFlag = Flags.custom<string>({
  helpValue: '<name>',
  description: 'what the tokens are for, such as join-token',
  parse: async (text) => {
    const { assertPurpose } = await import('./domain/keys/phase.ts')
    assertPurpose(text)
    return text
  },
})

const isUuid = (text: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)

async function parseUuid(text: string): Promise<string> {
  if (isUuid(text)) return text.toLowerCase()
  throw new TabibError('USAGE', `"${text}" is no UUID, such as 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90`)
}

/** What is named by its id alone: an event, a run, an incident. In lower case, as it is stored. */
export const uuidFlag = Flags.custom<string>({ helpValue: '<uuid>', parse: parseUuid })
export const uuidArg = Args.custom<string>({ parse: parseUuid })

/** How a check prints its findings, for a command that ends with `this.report`. */
export const reportFlags = {
  output: Flags.option({ options: REPORT_FORMATS, default: 'table' as const })({
    helpValue: '<format>',
    description: 'how findings are printed; json is the envelope of --json',
    helpGroup: 'REPORT',
  }),
  short: Flags.boolean({ description: 'one line for each finding, for a chat', helpGroup: 'REPORT' }),
}

/** `--waivers`, for a check whose findings somebody may answer for. */
export const waiversFlag = Flags.string({
  helpValue: '<file>',
  description: 'findings that somebody answers for: check, object, owner, reason, expires (docs/cli.md)',
  helpGroup: 'REPORT',
})

/** A patient, whom the audit trail does not name (domain/audit/operation.ts). */
export const patientFlag = Flags.custom<string>({
  helpValue: '<id>',
  description: "the patient's id in virtual care; kept out of the audit trail",
  parse: async (text) => {
    if (isUuid(text)) return text.toLowerCase()
    throw new TabibError('USAGE', '--patient is no UUID, which the id of every patient is')
  },
})
