import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { issueServiceToken } from '../domain/sessions/caller.ts'
import { randomFrom } from '../sandbox/random.ts'
import type { Visit, Written } from '../sandbox/visit.ts'
import type { World } from '../sandbox/world.ts'

export interface PaymentsOptions {
  rounds: number
  /** How often the same payment is asked for at once in each round. */
  duplicates: number
  /** How many rounds pass, on average, from one fault to the next. */
  calm: number
  seed: number
  /** Aborted: the round under way is the last, and what was done is counted. */
  signal: AbortSignal
  say?: (line: string) => void
}

export interface PaymentsResult {
  rounds: number
  /** Requests that were sent, and how they were answered; `lost` got no answer at all. */
  requests: number
  answers: Record<string, number>
  /** Processes of the API that were killed (SIGKILL) in the midst of a round, and Redis servers. */
  apiKills: number
  redisKills: number
  redisFlushes: number
  /** Rounds whose duplicates were not all told of one payment, and what the books say beyond one payment a round. */
  doubled: string[]
}

const REPLICAS = 2
const AMOUNT_MINOR = 100
const TOKEN_LIFETIME_S = 300

/**
 * Pays once a round, asked for by many at the same time, each until it is answered, while replicas of the API and Redis are
 * killed at random moments. Then counts: one payment, one posting and one answer for each key, and a balance that is
 * their sum.
 */
export async function runPayments(world: World, options: PaymentsOptions): Promise<PaymentsResult> {
  const { rounds, duplicates, calm, signal, say } = options
  // Faults are the seed's alone: how often is asked again depends on the machine.
  const chance = randomFrom(options.seed)
  const pauses = randomFrom(options.seed + 1)
  const visit = { ...(await world.visit()) }
  const replicas = await Promise.all(Array.from({ length: REPLICAS }, () => world.startApi()))
  const accountId = await replicas[0]!.owe(visit)
  const result: PaymentsResult = {
    rounds: 0,
    requests: 0,
    answers: {},
    apiKills: 0,
    redisKills: 0,
    redisFlushes: 0,
    doubled: [],
  }
  const note = (what: string) => {
    result.requests += 1
    result.answers[what] = (result.answers[what] ?? 0) + 1
  }
  const paidBefore = await balanceOf(world, accountId)

  let restarting: Promise<void> | undefined
  const restart = async (n: number) => {
    await replicas[n]!.exited
    replicas[n] = await world.startApi()
  }
  const hurt = async () => {
    if (!chance.happens(1 / calm)) return
    await delay(chance.below(30))
    const fault = chance.pick(['api', 'redis', 'flush'])
    if (fault === 'api') {
      await restarting
      const n = chance.below(REPLICAS)
      replicas[n]!.signal('SIGKILL')
      restarting = restart(n)
      result.apiKills += 1
    } else if (fault === 'redis') {
      await world.redis.kill()
      await world.redis.restart()
      result.redisKills += 1
    } else {
      await world.redis.flush()
      result.redisFlushes += 1
    }
  }

  while (result.rounds < rounds && !signal.aborted) {
    if (result.rounds % 100 === 0) visit.billingToken = await tokenFor(world, visit)
    const key = randomUUID()
    const body = { accountId, amountMinor: AMOUNT_MINOR, currency: 'AFN', method: 'cash', reference: key }
    const asking = Array.from({ length: duplicates }, async (_, n): Promise<string> => {
      for (let attempt = n; ; attempt++) {
        const answer = await replicas[attempt % REPLICAS]!.write(visit, 'payments', key, body).catch(
          (): Written => ({ status: 0, text: '', replayed: false }),
        )
        note(answer.status === 0 ? 'lost' : answer.replayed ? '201 replayed' : String(answer.status))
        if (answer.status === 201) return answer.text
        if (![0, 409, 503].includes(answer.status)) return `${answer.status} ${answer.text}`
        await delay(5 + pauses.below(20))
      }
    })
    const [told] = await Promise.all([Promise.all(asking), hurt()])
    const different = new Set(told)
    if (different.size !== 1 || !told[0]!.startsWith('{"id"')) {
      result.doubled.push(
        `round ${result.rounds + 1}: ${different.size} answers, as ${[...different].slice(0, 2).join(' and ')}`,
      )
    }
    result.rounds += 1
    if (result.rounds % 100 === 0) say?.(`${result.rounds}/${rounds} rounds, ${result.requests} requests`)
  }
  await restarting
  result.doubled.push(...(await countBooks(world, visit, result.rounds, { accountId, paidBefore })))
  return result
}

async function tokenFor(world: World, { tenantId }: Visit): Promise<string> {
  const ask = { service: 'cashier', tenantId, audience: 'billing' as const, lifetimeS: TOKEN_LIFETIME_S }
  return (await issueServiceToken(world.app, ask)).token
}

async function countBooks(
  world: World,
  { tenantId }: Visit,
  rounds: number,
  { accountId, paidBefore }: { accountId: string; paidBefore: bigint },
): Promise<string[]> {
  const [books] = await world.db.query<{ payments: number; posted: number; entries: number; keys: number }>(
    `select (select count(tenant_id) from billing.payment where tenant_id = $1)::int as payments,
       (select count(*) from billing.journal_transaction where tenant_id = $1 and kind = 'payment')::int as posted,
       (select count(*) from billing.entry e join billing.journal_transaction t
          on (t.tenant_id, t.id) = (e.tenant_id, e.transaction_id)
        where t.tenant_id = $1 and t.kind = 'payment')::int as entries,
       (select count(tenant_id) from billing.idempotency_key
        where tenant_id = $1 and route = 'POST /api/v1/billing/payments')::int as keys`,
    [tenantId],
  )
  const wanted = { payments: rounds, posted: rounds, entries: 2 * rounds, keys: rounds }
  const wrong = Object.entries(wanted).flatMap(([what, n]) => {
    const seen = books![what as keyof typeof wanted]
    return seen === n ? [] : [`${seen} ${what} for ${rounds} rounds`]
  })
  const paid = paidBefore - (await balanceOf(world, accountId))
  const due = BigInt(rounds) * BigInt(AMOUNT_MINOR)
  return paid === due ? wrong : [...wrong, `the account was paid ${paid}, not ${due}`]
}

async function balanceOf({ db }: World, accountId: string): Promise<bigint> {
  const [row] = await db.query<{ balance_minor: bigint }>(
    'select balance_minor from billing.balance where account_id = $1',
    [accountId],
  )
  return row?.balance_minor ?? 0n
}
