import type { TenantCheck } from '../check.ts'
import type { Tenant } from '../tenant.ts'

/** What the platform sends by itself, so every tenant must have it. */
export const REQUIRED_TEMPLATES = ['appointment-reminder', 'visit-summary'] as const

/** Languages, and what is sent in them. */
export const messagingChecks: TenantCheck[] = [
  {
    id: 'tenant/locale',
    category: 'messaging',
    severity: 'error',
    title: 'the locales are known',
    run: ({ locales }) => {
      if (locales.length === 0)
        return [{ message: 'no locale is set', path: ['locales'], fix: { set: ['fa-AF', 'ps-AF'] } }]
      return locales.flatMap((locale, i) => {
        const canonical = canonicalLocale(locale)
        if (canonical === locale && locales.indexOf(locale) === i) return []
        return [
          {
            message:
              canonical === undefined
                ? `"${locale}" is no known locale`
                : canonical === locale
                  ? `${locale} stands twice`
                  : `${locale} is spelt ${canonical}`,
            path: ['locales', i],
            about: `${i} ${locale}`,
            fix: {
              set: [...new Set(locales.map((one) => canonicalLocale(one) ?? 'fa-AF'))],
              at: ['locales'],
            },
          },
        ]
      })
    },
  },
  {
    id: 'tenant/time-zone',
    category: 'messaging',
    severity: 'error',
    title: 'the time zone is known',
    run: ({ timeZone }) => {
      if (timeZone && isTimeZone(timeZone)) return []
      return [
        {
          message: timeZone ? `"${timeZone}" is no time zone` : 'no time zone is set',
          path: ['timeZone'],
          fix: { set: 'Asia/Kabul' },
        },
      ]
    },
  },
  {
    id: 'tenant/senders',
    category: 'messaging',
    severity: 'error',
    title: 'every channel in use has a verified sender, and no sender is unverified',
    run: ({ messaging: { senders, templates } }, now) => {
      const isVerified = ({ verifiedAt }: (typeof senders)[number]) =>
        verifiedAt !== undefined && Date.parse(verifiedAt) <= now.getTime()
      const channels = [...new Set(templates.map(({ channel }) => channel))]
      const silent = channels.filter((channel) => !senders.some((sender) => sender.channel === channel))
      if (senders.length === 0 && channels.length === 0) {
        return [
          { message: 'there is no sender', path: ['messaging', 'senders'], fix: { add: senderBy('sms') } },
        ]
      }
      return [
        ...silent.map((channel) => ({
          message: `there are ${channel} templates and no ${channel} sender`,
          path: ['messaging', 'senders'],
          about: channel,
          fix: { add: senderBy(channel) },
        })),
        ...senders.flatMap((sender, i) =>
          isVerified(sender)
            ? []
            : [
                {
                  message: `the ${sender.channel} sender ${sender.address} is not verified`,
                  path: ['messaging', 'senders', i, 'verifiedAt'],
                  about: `${sender.channel} ${sender.address}`,
                  fix: { set: '<when its provider confirmed it>' },
                },
              ],
        ),
      ]
    },
  },
  {
    id: 'tenant/templates',
    category: 'messaging',
    severity: 'error',
    title: 'every template is there in every locale',
    run: ({ locales, messaging: { templates } }) => {
      const missing = [
        ...REQUIRED_TEMPLATES.filter((name) => !templates.some((one) => one.name === name)).map((name) => ({
          name: name as string,
          channel: 'sms',
          locale: locales[0] ?? 'fa-AF',
        })),
        ...missingTranslations(templates, locales),
      ]
      return missing.map(({ name, channel, locale }) => ({
        message: `${name} (${channel}) is missing in ${locale}`,
        path: ['messaging', 'templates'],
        about: `${name} ${channel} ${locale}`,
        evidence: { name, channel, locale },
        fix: { add: { name, channel, locale } },
      }))
    },
  },
]

const senderBy = (channel: string) => ({
  channel,
  address: '<address>',
  verifiedAt: '<when its provider confirmed it>',
})

function missingTranslations(templates: Tenant['messaging']['templates'], locales: readonly string[]) {
  const kinds = new Map(templates.map(({ name, channel }) => [`${name} ${channel}`, { name, channel }]))
  const there = new Set(templates.map(({ name, channel, locale }) => `${name} ${channel} ${locale}`))
  return [...kinds].flatMap(([kind, { name, channel }]) =>
    locales
      .filter((locale) => !there.has(`${kind} ${locale}`))
      .map((locale) => ({ name, channel: channel as string, locale })),
  )
}

/** BCP 47's spelling of a locale that the runtime has data for (fa-AF); undefined for any other. */
function canonicalLocale(locale: string): string | undefined {
  try {
    const [canonical] = Intl.DateTimeFormat.supportedLocalesOf(locale)
    return canonical
  } catch {
    return undefined
  }
}

function isTimeZone(name: string): boolean {
  try {
    // An offset (+04:30) is accepted by the runtime, and knows nothing of daylight saving.
    return /^[A-Z]/i.test(name) && new Intl.DateTimeFormat('en', { timeZone: name }) !== undefined
  } catch {
    return false
  }
}
