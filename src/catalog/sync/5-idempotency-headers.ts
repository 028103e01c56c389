import { randomUUID } from 'node:crypto'
import { repeatedPayments } from '../../domain/payments/repeated.ts'
import { failureMode } from '../failure-mode.ts'

interface Retried extends AsyncDisposable {
  answers: { text: string; replayed: boolean }[]
}

export default failureMode({
  id: 'sync/5',
  kind: 'guard',
  title: 'A repeated Idempotency-Key does not return the first response',
  severity: 'ticket',
  detect: {
    metric: 'billing_same_key_duplicates',
    measure: async (app) => ({ value: (await repeatedPayments(app)).sameKey }),
    fires: { above: 0 },
    says: (count) => (count > 0 ? `${count} payments repeat the key of another` : 'no key has two payments'),
    entails: ['billing/FM-09'],
  },
  mitigate: { command: ['status', 'sync/5', 'billing/FM-09'] },
  drill: {
    // A client asks again after its service was killed and the cache was lost.
    inject: async (world) => {
      const visit = await world.visit()
      const key = randomUUID()
      const answers: Retried['answers'] = []
      const first = await world.startApi()
      const body = { accountId: await first.owe(visit), amountMinor: 100, currency: 'AFN', method: 'cash' }
      answers.push(await first.write(visit, 'payments', key, body))
      first.signal('SIGKILL')
      await world.redis.flush()
      const second = await world.startApi()
      for (const _ of ['database', 'cache']) answers.push(await second.write(visit, 'payments', key, body))
      return Object.assign(second, { answers })
    },
    // Neither the store nor the payment remembers under which key it was made.
    disarm: async (world) => {
      await world.owner.query(
        `create function billing.forget_key() returns trigger language plpgsql as
           'begin new.key := gen_random_uuid()::text; return new; end';
         create trigger forget before insert on billing.idempotency_key
           for each row execute function billing.forget_key();
         create function billing.forget_payment() returns trigger language plpgsql as
           'begin new.idempotency_key := gen_random_uuid()::text; return new; end';
         create trigger forget before insert on billing.payment
           for each row execute function billing.forget_payment()`,
      )
    },
    verify: async (world, fault) => {
      const { answers } = fault as Retried
      const [made] = await world.db.query<{ n: number }>(
        'select count(tenant_id)::int as n from billing.payment',
      )
      const [first, ...again] = answers
      return [
        ...(made?.n === 1 ? [] : [`${made?.n} payments were made for one key`]),
        ...again.flatMap(({ text, replayed }, n) =>
          text === first!.text && replayed ? [] : [`retry ${n + 1} was not answered with the first response`],
        ),
      ]
    },
  },
})
