import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { describeLine, type PostedLine } from './describe-line.ts'
import { LANGUAGES, type Language, type Statement, type StatementLine } from './statement.ts'

/** Which account of which run. */
export interface AccountOfRun {
  tenantId: string
  runId: string
  accountId: string
}

/**
 * Reads an account's statement from the ledger and hands it to `use`: all of it as it is at one moment (a snapshot), with
 * the eyes of a service of this tenant alone. Lines come a page at a time while `use` runs; `onPage` is told of each.
 *
 * @throws TabibError ACCOUNT_FROZEN, or LEDGER_DRIFT where entries do not sum to the balance: no patient is told figures that
 * may be wrong.
 */
export function withAccountStatement<T>(
  { db }: { db: Database },
  account: AccountOfRun,
  use: (statement: Statement) => Promise<T>,
  onPage: () => void = () => {},
): Promise<T> {
  return db.transaction(async (tx) => {
    await tx.query('set transaction isolation level repeatable read, read only')
    await tx.query(`select set_config('role', 'tabib_app', true), set_config('app.tenant_id', $1, true)`, [
      account.tenantId,
    ])
    const facts = await factsOf(tx, account)
    const sums = await sumsOf(tx, account, facts)
    return use(statementOf(tx, account, facts, sums, onPage))
  })
}

interface Facts {
  n: number
  period: string
  timeZone: string
  startsAt: Date
  endsAt: Date
  /** First and last day of the period, and the day after it. */
  from: string
  to: string
  issuedOn: string
  code: string
  currency: string
  frozenAt: Date | null
  balanceMinor: bigint | null
  issuer: string
  locale: string | null
  registration: string | null
  letterhead: {
    address?: string[]
    phone?: string
    email?: string
    logo?: string
    dueDays?: number
  } | null
  patient: string | null
  language: string | null
  phone: string | null
}

async function factsOf(tx: Transaction, { tenantId, runId, accountId }: AccountOfRun): Promise<Facts> {
  const [facts] = await tx.query<Facts>(
    `select s.n, r.period, r.time_zone as "timeZone", r.starts_at as "startsAt", r.ends_at as "endsAt",
       to_char(r.starts_at at time zone r.time_zone, 'YYYY-MM-DD') as "from",
       to_char((r.ends_at at time zone r.time_zone) - interval '1 day', 'YYYY-MM-DD') as "to",
       to_char(r.ends_at at time zone r.time_zone, 'YYYY-MM-DD') as "issuedOn",
       a.code, a.currency, b.frozen_at as "frozenAt", b.balance_minor as "balanceMinor",
       t.name as issuer, f.document #>> '{locales,0}' as locale, f.document #>> '{tax,registration}' as registration,
       f.document -> 'letterhead' as letterhead, p.name as patient, p.language, p.phone
     from billing.statement s
       join billing.statement_run r on (r.tenant_id, r.id) = (s.tenant_id, s.run_id)
       join billing.account a on (a.tenant_id, a.id) = (s.tenant_id, s.account_id)
       join tabib.tenant t on t.id = s.tenant_id
       left join billing.balance b on (b.tenant_id, b.account_id) = (s.tenant_id, s.account_id)
       left join tabib.tenant_profile f on f.tenant_id = s.tenant_id
       -- Whose account it is need not be a patient that virtual care knows.
       left join virtual_care.patient p on p.tenant_id = s.tenant_id
         and p.id = case when a.code ~ '^receivable:[0-9a-fA-F-]{36}$' then substring(a.code from 12)::uuid end
     where s.tenant_id = $1 and s.run_id = $2 and s.account_id = $3`,
    [tenantId, runId, accountId],
    'statement_facts',
  )
  if (facts === undefined) {
    throw new TabibError('ACCOUNT_UNKNOWN', `run ${runId} has no account ${accountId} of tenant ${tenantId}`)
  }
  if (facts.frozenAt !== null) {
    throw new TabibError('ACCOUNT_FROZEN', `account ${accountId} is frozen: its figures may be wrong`, {
      suggestions: [`tabib ledger verify --account ${accountId}`],
    })
  }
  return facts
}

interface Sums {
  opening: bigint
  closing: bigint
  all: bigint
  /** Debits of the last 30 days of the period, of the 30 before, and of the 30 before those. */
  to30: bigint
  to60: bigint
  to90: bigint
}

async function sumsOf(tx: Transaction, { tenantId, accountId }: AccountOfRun, facts: Facts): Promise<Sums> {
  const [sums] = await tx.query<Sums>(
    `with entry as (
       select amount_minor, posted_at, ceil(extract(epoch from $4::timestamptz - posted_at) / 86400) as days
       from billing.entry where tenant_id = $1 and account_id = $2
     )
     select coalesce(sum(amount_minor) filter (where posted_at < $3), 0)::bigint as opening,
       coalesce(sum(amount_minor) filter (where posted_at < $4), 0)::bigint as closing,
       coalesce(sum(amount_minor), 0)::bigint as all,
       coalesce(sum(amount_minor) filter (where amount_minor > 0 and days between 1 and 30), 0)::bigint as to30,
       coalesce(sum(amount_minor) filter (where amount_minor > 0 and days between 31 and 60), 0)::bigint as to60,
       coalesce(sum(amount_minor) filter (where amount_minor > 0 and days between 61 and 90), 0)::bigint as to90
     from entry`,
    [tenantId, accountId, facts.startsAt, facts.endsAt],
    'statement_sums',
  )
  const balance = facts.balanceMinor ?? 0n
  if (sums!.all === balance) return sums!
  throw new TabibError(
    'LEDGER_DRIFT',
    `account ${accountId}: its balance is ${balance}, its entries sum to ${sums!.all}`,
    {
      suggestions: [`tabib ledger verify --account ${accountId}`],
      ref: 'runbooks/billing/fm-07-ledger-drift.md',
    },
  )
}

function statementOf(
  tx: Transaction,
  account: AccountOfRun,
  facts: Facts,
  sums: Sums,
  onPage: () => void,
): Statement {
  const { currency, letterhead } = facts
  const language = languageOf(facts.language ?? facts.locale)
  const patientId = facts.code.slice('receivable:'.length)
  const number = `S-${facts.period}-${String(facts.n).padStart(6, '0')}`
  const dueOn =
    letterhead?.dueDays === undefined ? {} : { dueOn: dayAfter(facts.issuedOn, letterhead.dueDays) }
  return {
    language,
    number,
    issuedOn: facts.issuedOn,
    period: { from: facts.from, to: facts.to },
    issuer: {
      name: facts.issuer || account.tenantId,
      address: letterhead?.address ?? [],
      ...present({
        phone: letterhead?.phone,
        email: letterhead?.email,
        logo: letterhead?.logo,
        registration: facts.registration,
      }),
    },
    patient: {
      name: facts.patient?.trim() || patientId,
      id: patientId,
      address: [],
      ...present({ phone: facts.phone }),
    },
    account: { number: account.accountId },
    openings: [{ currency, amountMinor: sums.opening.toString() }],
    lines: linesOf(tx, account, facts, { language, onPage }),
    ageing: [{ currency, ...ageingOf(sums) }],
    ...(sums.closing > 0n && { payment: { reference: number, ...dueOn } }),
  }
}

/** What is owed is what was charged last: payments pay the oldest debt first. A balance in the patient's favour has no age. */
function ageingOf({ closing, to30, to60, to90 }: Sums) {
  const least = (a: bigint, b: bigint) => (a < b ? a : b)
  const owed = closing > 0n ? closing : 0n
  const current = least(owed, to30)
  const over30 = least(owed - current, to60)
  const over60 = least(owed - current - over30, to90)
  return {
    current: (closing > 0n ? current : closing).toString(),
    over30: over30.toString(),
    over60: over60.toString(),
    over90: (owed - current - over30 - over60).toString(),
  }
}

const PAGE = 1_000

async function* linesOf(
  tx: Transaction,
  { tenantId, accountId }: AccountOfRun,
  { startsAt, endsAt, timeZone }: Facts,
  { language, onPage }: { language: Language; onPage(): void },
): AsyncGenerator<StatementLine> {
  for (let after = 0n; ; ) {
    const rows = await tx.query<PostedLine & { seq: bigint; date: string; currency: string; amount: bigint }>(
      `select e.seq, to_char(e.posted_at at time zone $6, 'YYYY-MM-DD') as date, e.currency, e.amount_minor as amount,
         t.kind, p.method, p.reference,
         -- One look-up each: behind an expression row-level security would keep the index from being used.
         case when t.reverses is null
           then (select code from billing.charge c where c.tenant_id = e.tenant_id and c.transaction_id = t.id limit 1)
           else (select code from billing.charge c where c.tenant_id = e.tenant_id and c.transaction_id = t.reverses limit 1)
         end as "itemCode"
       from billing.entry e
         join billing.journal_transaction t on (t.tenant_id, t.id) = (e.tenant_id, e.transaction_id)
         left join lateral (select method, reference from billing.payment p
           where p.tenant_id = e.tenant_id and p.transaction_id = t.id limit 1) p on true
       where e.tenant_id = $1 and e.account_id = $2 and e.seq > $3 and e.posted_at >= $4 and e.posted_at < $5
         -- An adjustment that only notes a fault moves nothing.
         and e.amount_minor <> 0
       order by e.seq limit ${PAGE}`,
      [tenantId, accountId, after, startsAt, endsAt, timeZone],
      'statement_lines',
    )
    onPage()
    for (const row of rows) {
      const { description, reference } = describeLine(row, language)
      yield {
        date: row.date,
        description,
        currency: row.currency,
        amountMinor: row.amount.toString(),
        ...present({ reference }),
      }
    }
    const last = rows.at(-1)
    if (last === undefined || rows.length < PAGE) return
    after = last.seq
  }
}

/** The statement's language for a BCP 47 tag: Dari is written `fa-AF`, `prs` or plain `fa`. */
function languageOf(tag: string | null): Language {
  const primary = tag?.toLowerCase().split(/[-_]/)[0] ?? ''
  return LANGUAGES.find((one) => one.split('-')[0] === (primary === 'prs' ? 'fa' : primary)) ?? 'en'
}

function dayAfter(day: string, days: number): string {
  return new Date(Date.parse(day) + days * 86_400_000).toISOString().slice(0, 10)
}

/** Without what is null, undefined or empty. */
function present<T extends Record<string, string | null | undefined>>(values: T) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value)) as {
    [K in keyof T]?: string
  }
}
