import type { TenantCheck } from '../check.ts'
import type { Fix } from '../fix.ts'
import type { Tenant } from '../tenant.ts'

const ACCOUNT = { provider: 'hesabpay', account: '<account>', verifiedAt: '<when it was confirmed>' }
const WEBHOOK = {
  url: 'https://<host>/payments',
  secretRef: 'file:/run/secrets/<name>',
  secretSetAt: '<when it was set>',
}

/** Being paid and paying back. */
export const paymentChecks: TenantCheck[] = [
  {
    id: 'tenant/payment-account',
    category: 'payment',
    severity: 'error',
    title: 'the payment account is verified',
    run: ({ payment }, now) => {
      if (!payment) {
        return [{ message: 'there is no payment account', path: ['payment'], fix: { set: ACCOUNT } }]
      }
      if (payment.verifiedAt && Date.parse(payment.verifiedAt) <= now.getTime()) return []
      return [
        {
          message: payment.verifiedAt
            ? `${payment.provider} is to verify the account only on ${payment.verifiedAt}`
            : `${payment.provider} has not verified the account`,
          path: ['payment', 'verifiedAt'],
          evidence: { provider: payment.provider },
          fix: { set: `<when ${payment.provider} confirmed the account>` },
        },
      ]
    },
  },
  {
    id: 'tenant/webhook-secret',
    category: 'payment',
    severity: 'error',
    title: 'the payment webhook has a secret, over TLS',
    run: ({ payment }) => {
      const webhook = payment?.webhook
      if (!webhook) {
        return [
          {
            message: 'there is no payment webhook',
            path: ['payment', 'webhook'],
            fix: withWebhook(payment, WEBHOOK),
          },
        ]
      }
      if (webhook.url.startsWith('https:')) return []
      return [
        {
          message: 'the payment webhook is called without TLS',
          path: ['payment', 'webhook', 'url'],
          evidence: { url: webhook.url },
          fix: { set: webhook.url.replace(/^http:/, 'https:') },
        },
      ]
    },
  },
  {
    id: 'tenant/webhook-tested',
    category: 'payment',
    severity: 'error',
    title: 'the webhook has passed a signed test with its present secret',
    run: ({ slug, payment }, now) => {
      const webhook = payment?.webhook
      const testedMs = webhook?.testedAt === undefined ? undefined : Date.parse(webhook.testedAt)
      const problem =
        webhook === undefined || testedMs === undefined
          ? 'the payment webhook has never been tested'
          : testedMs < Date.parse(webhook.secretSetAt)
            ? `its last test, of ${webhook.testedAt}, was of an older secret`
            : testedMs > now.getTime()
              ? `its last test, of ${webhook.testedAt}, lies ahead`
              : undefined
      if (problem === undefined) return []
      const passed = `<when "tabib tenant check ${slug}" passed tenant/webhook-signed-test>`
      return [
        {
          message: problem,
          path: ['payment', 'webhook', 'testedAt'],
          fix: webhook ? { set: passed } : withWebhook(payment, { ...WEBHOOK, testedAt: passed }),
        },
      ]
    },
  },
  {
    id: 'tenant/refund-approvers',
    category: 'payment',
    severity: 'error',
    title: 'two people can approve refunds',
    run: ({ refunds: { approvers } }) => {
      const count = new Set(approvers).size
      if (count >= 2) return []
      return [
        {
          message: `${count} of the two people who must be able to approve refunds`,
          path: ['refunds', 'approvers'],
          evidence: { approvers: count },
          fix: { set: [...new Set(approvers), '<user id>', '<another user id>'].slice(0, 2) },
        },
      ]
    },
  },
]

/** A webhook without an account would be none that the schema knows. */
const withWebhook = (payment: Tenant['payment'], webhook: object): Fix =>
  payment ? { set: webhook, at: ['payment', 'webhook'] } : { set: { ...ACCOUNT, webhook }, at: ['payment'] }
