import { Flags } from '@oclif/core'
import { TabibError } from './errors.ts'

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
