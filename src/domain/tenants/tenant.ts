import * as z from 'zod'

const code = z.string().regex(/^[\w.:/-]{1,64}$/, 'must be 1 to 64 letters, digits or . : / - _')
const moment = z.iso
  .datetime({ offset: true, error: 'must be a time with its offset, as 2026-03-21T00:00:00+04:30' })
  // 1405 is this year in the solar calendar of Afghanistan and Iran, and the Middle Ages in this one.
  .refine((text) => text >= '2000', { error: 'must be a Gregorian date: 1405-01-01 is 2026-03-21' })
const region = code.describe('as the clusters are labelled: af-herat')
const channel = z.enum(['sms', 'email', 'push'])
const days = z.int().min(1).max(36_500)
const quota = z.int().min(0)

/** Kinds of data that a retention policy must speak about. */
export const RETAINED = ['clinical', 'billing', 'messages', 'recordings', 'audit'] as const
/** Limits that keep one tenant from starving the others. */
export const QUOTAS = ['patients', 'sessionsPerDay', 'messagesPerDay', 'storageGb'] as const

/**
 * A tenant as it is configured: a pull request's `tenant.yaml`, what `tabib schema tenant` prints, and what is read of a
 * live tenant. What the checks ask for may be missing here, so that its absence is a finding among the others and not
 * an error in front of them. Secrets and keys stand as references, never as values.
 */
export const tenantSchema = z
  .strictObject({
    slug: z
      .string()
      .regex(/^[a-z0-9]+(-[a-z0-9]+)*$/, 'must be lower-case words with hyphens: herat-markaz')
      .max(63),
    name: z.string().min(1),
    status: z.enum(['onboarding', 'live']).default('onboarding'),
    currency: z.string().optional().describe('default currency, ISO 4217: AFN'),
    locales: z.array(z.string()).default([]).describe('BCP 47, the default first: fa-AF'),
    timeZone: z.string().optional().describe('IANA: Asia/Kabul'),
    items: z
      .array(
        z.strictObject({
          code,
          sellable: z.boolean().default(true),
          tax: code.optional().describe('one of tax.rates'),
        }),
      )
      .default([])
      .describe('what is charged for'),
    priceLists: z
      .array(
        z.strictObject({
          name: z.string().min(1),
          currency: z.string(),
          from: moment,
          to: moment
            .optional()
            .describe('the first moment at which it no longer holds; without it, for good'),
          prices: z.array(z.strictObject({ item: code, amountMinor: z.int().min(0) })).default([]),
        }),
      )
      .default([]),
    tax: z
      .strictObject({
        country: z.string().regex(/^[A-Z]{2}$/, 'must be ISO 3166-1: AF'),
        registration: z.string().min(1).optional().describe("the tenant's number at the tax office"),
        exempt: z.string().min(1).optional().describe('why there is no registration'),
        rates: z.record(code, z.number().min(0).max(100)).default({}).describe('percent by code'),
      })
      .optional(),
    accounts: z
      .array(z.strictObject({ code, currency: z.string(), openingMinor: z.int() }))
      .default([])
      .describe('ledger accounts'),
    payment: z
      .strictObject({
        provider: code,
        account: z.string().min(1),
        verifiedAt: moment.optional().describe('when the provider confirmed the account'),
        webhook: z
          .strictObject({
            url: z.url({ protocol: /^https?$/ }),
            secretRef: z
              .string()
              .regex(/^(file|env|vault|kms):\S+$/, 'must be a reference, as file:/run/secrets/herat-webhook')
              .describe('where the secret is kept'),
            secretSetAt: moment,
            testedAt: moment.optional().describe('when a signed test was accepted and a forged one refused'),
          })
          .optional(),
      })
      .optional(),
    refunds: z.strictObject({ approvers: z.array(code).default([]).describe('user ids') }).prefault({}),
    residency: z
      .strictObject({
        region: region.optional().describe('where its data lives'),
        allowed: z.array(region).default([]).describe('where its data may be besides'),
        backups: z.array(z.strictObject({ label: code, region })).default([]),
      })
      .prefault({}),
    keys: z
      .strictObject({
        kms: z.strictObject({ ref: z.string().min(1), region }).optional(),
        subjects: z
          .strictObject({ wrappedBy: z.string().min(1).describe('keys.kms.ref') })
          .optional()
          .describe('one key for each patient, so that erasing is shredding it'),
      })
      .prefault({}),
    privacy: z
      .strictObject({
        erasureContact: z.email().optional(),
        retentionDays: z.partialRecord(z.enum(RETAINED), days).default({}),
      })
      .prefault({}),
    identity: z
      .strictObject({
        issuer: z.url({ protocol: /^https?$/ }),
        jwksUri: z.url({ protocol: /^https?$/ }),
        admins: z
          .array(z.strictObject({ user: code, mfa: z.enum(['webauthn', 'totp', 'none']) }))
          .default([]),
      })
      .optional(),
    messaging: z
      .strictObject({
        senders: z
          .array(z.strictObject({ channel, address: z.string().min(1), verifiedAt: moment.optional() }))
          .default([]),
        templates: z.array(z.strictObject({ name: code, channel, locale: z.string() })).default([]),
      })
      .prefault({}),
    letterhead: z
      .strictObject({
        address: z.array(z.string().min(1).max(200)).max(6).default([]),
        phone: z.string().min(1).max(50).optional(),
        email: z.email().optional(),
        logo: z
          .string()
          .regex(/^data:image\/(png|jpeg);base64,/, 'must be a data: URL of a PNG or JPEG')
          .max(1_000_000)
          .optional(),
        dueDays: z.int().min(0).max(365).optional().describe('days in which a statement is to be paid'),
      })
      .optional()
      .describe("what its patients' statements are headed with"),
    quotas: z.partialRecord(z.enum(QUOTAS), quota).default({}),
    onCall: z
      .strictObject({
        route: code.describe("the pager's receiver"),
        escalation: code.optional().describe('the receiver after it'),
      })
      .optional(),
  })
  .meta({ title: 'tenant.yaml', description: "a tenant's configuration (docs/onboarding.md)" })

export type Tenant = z.output<typeof tenantSchema>

/** Every region that a tenant's data may be in. */
export function allowedRegions({ residency: { region, allowed } }: Pick<Tenant, 'residency'>): string[] {
  return [...new Set([...(region === undefined ? [] : [region]), ...allowed])]
}
