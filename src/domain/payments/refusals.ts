import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { countPriceRefusal } from '../prices/refusals.ts'

/**
 * Counts what was refused for want of a price or of a currency; nothing else. Call it as tabib, after the refusal has
 * undone its own transaction.
 */
export async function countRefusal(db: Queryable, error: unknown): Promise<void> {
  if (!(error instanceof TabibError)) return
  const { code, context } = error
  const tenantId = String(context.tenantId)
  if (code === 'PRICE_NOT_FOUND')
    await countPriceRefusal(db, { tenantId, itemCode: String(context.itemCode) })
  if (code !== 'CURRENCY_NOT_SET') return
  await db.query(
    `insert into billing.currency_refusal as seen (tenant_id, minute, n)
     values ($1, date_trunc('minute', clock_timestamp()), 1)
     on conflict (tenant_id, minute) do update set n = seen.n + 1`,
    [tenantId],
  )
}

/** Payments and charges that were refused in the last 15 minutes because their tenant has no currency. */
export async function currencyRefusals({ db }: { db: Queryable }): Promise<number> {
  const [row] = await db.query<{ n: number }>(
    `select coalesce(sum(n), 0)::float8 as n from billing.currency_refusal
     where minute > now() - interval '15 minutes'`,
  )
  return row?.n ?? 0
}

/** Forgets counts that are older than a month. */
export async function forgetCurrencyRefusals(db: Queryable): Promise<void> {
  await db.query(`delete from billing.currency_refusal where minute < clock_timestamp() - interval '30 days'`)
}
