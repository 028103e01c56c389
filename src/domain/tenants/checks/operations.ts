import type { Problem, TenantCheck } from '../check.ts'
import { QUOTAS, type Tenant } from '../tenant.ts'

/** Limits, and who is called. */
export const operationsChecks: TenantCheck[] = [
  {
    id: 'tenant/placeholders',
    category: 'operations',
    severity: 'error',
    title: 'no placeholder is left',
    run: (tenant) =>
      placeholders(tenant).map(({ path, text }) => ({
        message: `${path.join('.')} is still ${text}`,
        path,
        about: path.join('.'),
        fix: { set: text, note: 'with the real one' },
      })),
  },
  {
    id: 'tenant/quotas',
    category: 'operations',
    severity: 'error',
    title: 'every quota is set above zero',
    run: ({ quotas }) =>
      QUOTAS.filter((name) => !quotas[name]).map((name) => ({
        message: quotas[name] === 0 ? `${name} is 0: nothing would be let through` : `${name} has no limit`,
        path: ['quotas', name],
        about: name,
        fix: { set: 1_000 },
      })),
  },
  {
    id: 'tenant/on-call-route',
    category: 'operations',
    severity: 'error',
    title: 'pages have a route and an escalation',
    run: ({ onCall }) => {
      if (!onCall) {
        const fix = { set: { route: '<receiver>', escalation: '<another receiver>' } }
        return [{ message: 'pages about this tenant have no route', path: ['onCall'], fix }]
      }
      if (onCall.escalation && onCall.escalation !== onCall.route) return []
      return [
        {
          message: onCall.escalation
            ? `a page that ${onCall.route} does not answer goes to ${onCall.route} again`
            : `a page that ${onCall.route} does not answer goes nowhere`,
          path: ['onCall', 'escalation'],
          evidence: { route: onCall.route },
          fix: { set: '<another receiver>' },
        },
      ]
    },
  },
]

/** What a fix leaves to be filled in, as `<user id>`; a mail address in brackets is none. */
function placeholders(tenant: Tenant): { path: Problem['path']; text: string }[] {
  const found: { path: Problem['path']; text: string }[] = []
  const look = (value: unknown, path: Problem['path']) => {
    if (typeof value === 'string' && /<[^<>@]+>/.test(value)) found.push({ path, text: value })
    if (Array.isArray(value)) for (const [i, inner] of value.entries()) look(inner, [...path, i])
    else if (typeof value === 'object' && value !== null) {
      for (const [key, inner] of Object.entries(value)) look(inner, [...path, key])
    }
  }
  look(tenant, [])
  return found
}
