import * as z from 'zod'
import { TabibError } from '../../errors.ts'

export const CHANNELS = ['sms', 'push', 'email'] as const
export type Channel = (typeof CHANNELS)[number]

/** One version of a template. */
export interface Template {
  id: string
  version: number
  channel: Channel
  category: string
  /** Of a push or an e-mail. */
  subject: string | null
  /** Text with `{name}` where a variable goes. */
  body: string
  variables: Record<string, VariableType>
}

/** Every type is a form that no free text fits. */
const TYPES = {
  /** An instant, shown on Kabul's clocks. */
  time: z.iso.datetime({ offset: true }),
  /** A one-time code. */
  code: z.string().regex(/^\d{4,8}$/),
  count: z.int().min(0).max(999),
  /** Minor units with their currency: `50000 AFN`. */
  amount: z.string().regex(/^\d{1,9} [A-Z]{3}$/),
  /** An opaque id of ours. */
  reference: z.uuid(),
  /** An address of ours (`messaging.linkHosts`) whose path is an opaque token. */
  link: z.string().regex(/^https:\/\/[a-z0-9.-]{1,100}\/[a-z]{1,12}\/[A-Za-z0-9_-]{16,64}$/),
} as const
export type VariableType = keyof typeof TYPES
export const VARIABLE_TYPES = Object.keys(TYPES) as VariableType[]

/** A new version, as somebody proposes it. */
export const newTemplateSchema = z
  .strictObject({
    id: z.string().regex(/^[a-z][a-z0-9-]{1,60}$/, 'must be words in small letters, joined by dashes'),
    channel: z.enum(CHANNELS),
    category: z.string().regex(/^[a-z][a-z-]{1,40}$/, 'must be a word in small letters'),
    subject: z.string().max(120).nullish(),
    body: z.string().min(1).max(2_000),
    variables: z
      .record(z.string().regex(/^[a-zA-Z]{1,30}$/), z.enum(VARIABLE_TYPES))
      .refine((variables) => Object.keys(variables).length <= 12, 'must be twelve at the most')
      .default({}),
  })
  .superRefine(({ subject, body, variables }, context) => {
    const used = new Set([...placesIn(subject ?? ''), ...placesIn(body)])
    for (const name of used)
      if (!Object.hasOwn(variables, name))
        context.addIssue({ code: 'custom', message: `{${name}} has no type under variables` })
    for (const name of Object.keys(variables))
      if (!used.has(name))
        context.addIssue({ code: 'custom', message: `the variable ${name} stands nowhere` })
  })
export type NewTemplate = z.infer<typeof newTemplateSchema>

const PLACE = /\{([a-zA-Z]+)\}/g
const placesIn = (text: string): string[] => [...text.matchAll(PLACE)].map(([, name]) => name!)

/**
 * The text with its variables. The error names what is wrong with which variable, never its value: that may be the very
 * thing that must not be seen.
 *
 * @throws TabibError MESSAGE_INVALID
 */
export function renderTemplate(
  { id, version, subject, body, variables }: Template,
  given: Readonly<Record<string, unknown>>,
  { linkHosts }: { linkHosts: readonly string[] },
): { subject: string | null; body: string } {
  const wrong = [
    ...Object.keys(given)
      .filter((name) => !Object.hasOwn(variables, name))
      .map(() => 'a variable that it does not have'),
    ...Object.entries(variables).flatMap(([name, type]) =>
      TYPES[type].safeParse(given[name]).success
        ? type === 'link' && !linkHosts.includes(new URL(given[name] as string).host)
          ? [`${name}, whose host is none of messaging.linkHosts`]
          : []
        : [name in given ? `${name}, which is no ${type}` : `no ${name}`],
    ),
  ]
  if (wrong.length > 0) {
    throw new TabibError(
      'MESSAGE_INVALID',
      `template ${id} version ${version} was given ${wrong.join(', ')}`,
      {
        suggestions: [`tabib messaging status --json`],
        retryable: false,
      },
    )
  }
  const fill = (text: string) => text.replace(PLACE, (_, name) => shown(variables[name]!, given[name]))
  return { subject: subject === null ? null : fill(subject), body: fill(body) }
}

/** Values as they are shown, of variables that `renderTemplate` has taken. */
export const shownVariables = ({ variables }: Template, given: Readonly<Record<string, unknown>>): string[] =>
  Object.entries(variables).map(([name, type]) => shown(type, given[name]))

function shown(type: VariableType, value: unknown): string {
  if (type === 'time') return KABUL.format(new Date(value as string))
  if (type !== 'amount') return String(value)
  const [minor = '', currency = ''] = String(value).split(' ')
  const padded = minor.padStart(3, '0')
  return `${padded.slice(0, -2)}.${padded.slice(-2)} ${currency}`
}

const KABUL = new Intl.DateTimeFormat('en-GB', {
  timeZone: 'Asia/Kabul',
  dateStyle: 'medium',
  timeStyle: 'short',
})
