import { Flags } from '@oclif/core'
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
    const time = /^\d{4}-\d{2}-\d{2}(T|$)/.test(text) ? new Date(text) : new Date(Number.NaN)
    if (!Number.isNaN(time.getTime())) return time
    throw new TabibError('USAGE', `"${text}" is no time; write 2026-11-22T03:00Z, or 2h for two hours ago`)
  },
})

/** Which keys: those that sign the tokens of one purpose. */
export const purposeFlag = Flags.custom<string>({
  helpValue: '<name>',
  description: 'what the tokens are for, such as join-token',
})

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
    if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) return text.toLowerCase()
    throw new TabibError('USAGE', '--patient is no UUID, which the id of every patient is')
  },
})
