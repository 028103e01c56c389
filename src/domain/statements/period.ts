import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

/** Where a tenant's profile names no time zone. */
const TIME_ZONE = 'Asia/Kabul'

export interface Period {
  /** `2026-10` */
  name: string
  timeZone: string
  /** The first moment of it, and the first after it. */
  startsAt: Date
  endsAt: Date
  hasEnded: boolean
}

/**
 * A month of the Gregorian calendar in the tenant's own time zone.
 * @throws TabibError USAGE for what is no month, CONFIG_INVALID for a time zone that Postgres does not know.
 */
export async function periodOf(db: Queryable, tenantId: string, name: string): Promise<Period> {
  const { year, month } = parseMonth(name)
  try {
    const [period] = await db.query<Period>(
      `select $2 as name, zone as "timeZone", first at time zone zone as "startsAt",
         (first + interval '1 month') at time zone zone as "endsAt",
         (first + interval '1 month') at time zone zone <= clock_timestamp() as "hasEnded"
       from (select make_date($3, $4, 1)::timestamp as first,
               coalesce((select document ->> 'timeZone' from tabib.tenant_profile where tenant_id = $1), $5) as zone) month`,
      [tenantId, name, year, month, TIME_ZONE],
    )
    return period!
  } catch (cause) {
    if ((cause as { code?: string }).code !== '22023') throw cause
    throw new TabibError(
      'CONFIG_INVALID',
      `the time zone in the profile of tenant ${tenantId} does not exist`,
      {
        cause,
        suggestions: [`tabib tenant check ${tenantId}`],
      },
    )
  }
}

/** @throws TabibError USAGE for what is no month of this century or a later one. */
export function parseMonth(name: string): { year: number; month: number } {
  const [, year, month] = /^(\d{4})-(0[1-9]|1[0-2])$/.exec(name) ?? []
  if (year === undefined) throw wrong(name, 'is no month; write 2026-10')
  // 1405 is this year in the solar calendar of Afghanistan and Iran, and the Middle Ages in this one.
  if (Number(year) < 2000) throw wrong(name, 'is no Gregorian month: 1405-07 is 2026-09 and 2026-10')
  return { year: Number(year), month: Number(month) }
}

const wrong = (name: string, why: string) =>
  new TabibError('USAGE', `--period ${JSON.stringify(name)} ${why}`)
