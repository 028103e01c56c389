import type { Database } from '../adapters/postgres/client.ts'
import { type Tenant, tenantSchema } from '../domain/tenants/tenant.ts'

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
      { name: 'standing', currency, from: at, prices: [{ item: 'CONSULT-REMOTE', amountMinor: 50_000 }] },
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

/**
 * Writes what a tenant's document says as those that own its parts would; the tenant's own row must be there, and
 * nothing of this yet.
 *
 * @param systems `db` may allow regions (tabib's role), `service` writes the rest (tabib_app).
 */
export async function configureTenant(
  { db, service }: { db: Database; service: Database },
  tenantId: string,
  tenant: Tenant,
): Promise<void> {
  const { slug, name, status, currency, items, priceLists, accounts, ...profile } = tenant
  await db.query('insert into tabib.tenant_region (tenant_id, region) select $1, unnest($2::text[])', [
    tenantId,
    tenant.residency.allowed,
  ])
  await service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query('insert into tabib.tenant_profile (tenant_id, document) values ($1, $2)', [
      tenantId,
      JSON.stringify(profile),
    ])
    await tx.query(
      `insert into billing.item (tenant_id, code, sellable, tax_code)
       select $1, * from jsonb_to_recordset($2) as t(code text, sellable boolean, tax text)`,
      [tenantId, JSON.stringify(items)],
    )
    await tx.query(
      `with list as (
         insert into billing.price_list (tenant_id, name, currency, effective)
         select $1, name, currency, tstzrange("from", "to")
         from jsonb_to_recordset($2) as t(name text, currency text, "from" timestamptz, "to" timestamptz)
         returning id, name)
       insert into billing.price (tenant_id, price_list_id, item_code, amount_minor)
       select $1, list.id, price.item, price."amountMinor"
       from list join jsonb_to_recordset($2) as t(name text, prices jsonb) using (name),
         jsonb_to_recordset(t.prices) as price(item text, "amountMinor" bigint)`,
      [tenantId, JSON.stringify(priceLists)],
    )
    await tx.query(
      `insert into billing.account (tenant_id, code, currency, opening_minor)
       select $1, * from jsonb_to_recordset($2) as t(code text, currency text, "openingMinor" bigint)`,
      [tenantId, JSON.stringify(accounts)],
    )
  })
}
