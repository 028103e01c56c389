import { randomUUID } from 'node:crypto'
import type { Database } from '../adapters/postgres/client.ts'
import { writeTenant } from '../domain/tenants/apply.ts'
import { type Tenant, tenantSchema } from '../domain/tenants/tenant.ts'

/** Makes a live tenant in Kabul that charges in afghani and lacks nothing, and returns its id. */
export async function makeTenant({ db }: { db: Database }, id: string = randomUUID()): Promise<string> {
  const names = { slug: `rehearsal-${id}`, name: 'Rehearsal', region: 'AF', currency: 'AFN' }
  await db.transaction(async (tx) => {
    await writeTenant(tx, id, completeTenant(names))
    await tx.query(`update tabib.tenant set status = 'live' where id = $1`, [id])
  })
  return id
}

/** A remote consultation: 70 AFN to the dollar. */
const FEE_MINOR: Record<string, number> = { AFN: 50_000, USD: 714 }

/** A tenant that lacks nothing which its document could say; times lie two years back. */
export function completeTenant(names: {
  slug: string
  name: string
  currency: string
  region: string
}): Tenant {
  const { slug, currency, region } = names
  const at = new Date(Date.now() - 2 * 365 * 86_400_000).toISOString()
  const locales = ['fa-AF', 'ps-AF']
  const templates = [
    { name: 'appointment-reminder', channel: 'sms' },
    { name: 'visit-summary', channel: 'sms' },
  ]
  return tenantSchema.parse({
    slug,
    name: names.name,
    status: 'live',
    currency,
    locales,
    timeZone: 'Asia/Kabul',
    items: [{ code: 'CONSULT-REMOTE', tax: 'standard' }],
    priceLists: [
      {
        name: 'standing',
        currency,
        from: at,
        prices: [{ item: 'CONSULT-REMOTE', amountMinor: FEE_MINOR[currency] ?? 50_000 }],
      },
    ],
    tax: { country: 'AF', registration: '1000123456', rates: { standard: 10 } },
    accounts: ['cash', 'receivable', 'refunds', 'revenue', 'tax'].map((code) => ({
      code,
      currency,
      openingMinor: 0,
    })),
    payment: {
      provider: 'hesabpay',
      account: `acct-${slug}`,
      verifiedAt: at,
      webhook: {
        url: `https://pay.clinics.example/webhooks/${slug}`,
        secretRef: `vault:clinics/${slug}/webhook`,
        secretSetAt: at,
        testedAt: at,
      },
    },
    refunds: { approvers: ['u-shukria', 'u-navid'] },
    residency: { region, backups: [{ label: 'nightly', region }] },
    keys: { kms: { ref: `${slug}-key`, region }, subjects: { wrappedBy: `${slug}-key` } },
    privacy: {
      erasureContact: 'privacy@clinics.example',
      retentionDays: { clinical: 3650, billing: 3650, messages: 365, recordings: 90, audit: 3650 },
    },
    identity: {
      issuer: 'https://id.clinics.example',
      jwksUri: 'https://id.clinics.example/jwks',
      admins: [{ user: 'u-shukria', mfa: 'webauthn' }],
    },
    messaging: {
      senders: [{ channel: 'sms', address: 'CLINIC', verifiedAt: at }],
      templates: templates.flatMap((template) => locales.map((locale) => ({ ...template, locale }))),
    },
    quotas: { patients: 20_000, sessionsPerDay: 400, messagesPerDay: 2_000, storageGb: 200 },
    onCall: { route: 'clinics', escalation: 'platform' },
  })
}
