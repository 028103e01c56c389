import * as z from 'zod'
import { PAYABLE_CURRENCIES } from '../tenants/currency.ts'

/** The reader's languages; each has its direction, digits and calendar (words.ts). */
export const LANGUAGES = ['fa-AF', 'ps-AF', 'ar', 'en'] as const
export type Language = (typeof LANGUAGES)[number]

// A name or a number stays on a page; a description may be as long as a book, its row then runs on over pages.
const short = z.string().max(500)
const day = z.iso.date({ error: 'must be a day of the Gregorian calendar, as 2026-10-31' })
const currency = z.string().refine((code) => PAYABLE_CURRENCIES.includes(code), {
  error: ({ input }) => `"${String(input).slice(0, 20)}" is no active ISO 4217 currency`,
})
const amount = z
  .union([z.int(), z.string().regex(/^-?\d{1,18}$/)], {
    error: 'must be a whole number of minor units: 50000 or "50000"',
  })
  .describe('minor units of the currency (ISO 4217: 100 to the afghani): 50000 or, beyond 2^53, "50000"')

export const lineSchema = z.strictObject({
  date: day,
  description: z.string().max(2_000_000),
  reference: short.optional().describe('code of what was charged, or of the payment'),
  currency,
  amountMinor: amount.describe('above zero is charged, below zero is paid'),
})

/**
 * What a statement is made of: the document that `tabib statement render --input` reads and that `tabib schema statement`
 * prints. Running balances and totals are not in it: they are derived from opening balances and lines.
 */
export const statementSchema = z
  .strictObject({
    language: z.enum(LANGUAGES),
    number: short.min(1).describe('of the statement'),
    issuedOn: day,
    period: z.strictObject({ from: day, to: day }),
    issuer: z.strictObject({
      name: short.min(1),
      address: z.array(short).max(6).default([]),
      phone: short.optional(),
      email: short.optional(),
      registration: short.optional().describe('number at the tax office'),
      logo: z
        .string()
        .regex(/^data:image\/(png|jpeg);base64,/, 'must be a data: URL of a PNG or JPEG')
        .max(4_000_000)
        .optional(),
    }),
    patient: z.strictObject({
      name: short.min(1),
      id: short.optional(),
      phone: short.optional(),
      address: z.array(short).max(6).default([]),
    }),
    account: z.strictObject({ number: short.min(1), name: short.optional() }),
    openings: z
      .array(z.strictObject({ currency, amountMinor: amount }))
      .default([])
      .describe('balances before the first line; a currency that is not named opens at zero'),
    lines: z.array(lineSchema),
    ageing: z
      .array(
        z.strictObject({
          currency,
          current: amount.describe('owed for up to 30 days'),
          over30: amount,
          over60: amount,
          over90: amount,
        }),
      )
      .default([])
      .describe('how long the closing balance has been owed; adds up to it'),
    payment: z
      .strictObject({
        dueOn: day.optional(),
        reference: short.min(1).describe('what the payer quotes'),
        code: z.string().min(1).max(1_000).optional().describe('content of the QR code, else the reference'),
      })
      .optional()
      .describe('prints a payment slip'),
  })
  .describe("an account's statement: what statement render reads")

export type StatementDocument = z.infer<typeof statementSchema>
export type StatementLine = StatementDocument['lines'][number]

/** A statement whose lines may come one by one, so that an account of any size needs no more memory than a page. */
export interface Statement extends Omit<StatementDocument, 'lines'> {
  lines: Iterable<StatementLine> | AsyncIterable<StatementLine>
}
