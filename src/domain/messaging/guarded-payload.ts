import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import { asTenant } from '../sessions/tenant.ts'
import { type FoundPatientData, recordFinding } from './finding.ts'
import { type KnownPatient, knownPatients, openPatientDataFinder, textOf } from './patient-data.ts'
import { type Channel, renderTemplate, shownVariables, type Template } from './template.ts'

/** A message before it is checked: a template and what goes into its places, no text. */
export interface Draft {
  tenantId: string
  /** Whom it is about and goes to, whose identifiers it must not hold. */
  patientId: string
  /** Names this very attempt in what is recorded of it; the same draft twice is one finding. */
  attemptId: string
  /** Whoever asked for it believes that it goes there: it must be the patient's own, or nothing is sent. */
  recipient?: string | null | undefined
  template: { id: string; version: number }
  variables: Readonly<Record<string, unknown>>
}

export interface MessageContent {
  tenantId: string
  patientId: string
  channel: Channel
  category: string
  template: { id: string; version: number }
  /** The patient's own number, address or device, as it is registered. */
  to: string
  subject: string | null
  body: string
}

/** Whoever holds a payload for longer has it checked again: its category may be halted by now. */
const FRESH_MS = 60_000

/** Nobody outside has it. */
const CHECKED = Symbol('checked')

const RUNBOOK = 'runbooks/communication/c11-patient-data-in-push.md'

/**
 * A message that the guard has checked. There is no other way to make one than `check`, so whatever takes nothing else
 * (the SMS, push and e-mail adapters) sends nothing that was not checked.
 */
export class GuardedPayload {
  readonly #content: MessageContent
  readonly #checkedAt = performance.now()

  private constructor(mark: symbol, content: MessageContent) {
    // The types alone keep nobody from calling this.
    if (mark !== CHECKED) throw refused('a payload is made by the check alone; nothing was sent')
    this.#content = Object.freeze({ ...content, template: Object.freeze({ ...content.template }) })
  }

  /** What an adapter sends. @throws TabibError PATIENT_DATA_REFUSED for what `check` did not make, or not in the last minute. */
  static contentOf(payload: GuardedPayload): MessageContent {
    if (typeof payload !== 'object' || payload === null || !(#content in payload)) {
      throw refused('this is no payload of the guard; nothing was sent')
    }
    if (performance.now() - payload.#checkedAt > FRESH_MS) {
      throw refused(`the payload was checked more than ${FRESH_MS / 1000} s ago; nothing was sent`)
    }
    return payload.#content
  }

  /**
   * The pre-send assertion: the template's version is in use and its category is not halted for the tenant, every variable
   * has the type that the template allows, neither the text nor a variable nor several together hold patient data in any
   * encoding, and the patient has an address of their own for the channel, which nobody else can name. Where there is
   * patient data, the category is halted for the tenant before this throws.
   *
   * @param record What else must be true and on record before it is sent, in the same transaction.
   * @throws TabibError MESSAGE_INVALID, TEMPLATE_NOT_FOUND, CATEGORY_HALTED, PATIENT_DATA_REFUSED, RECIPIENT_UNKNOWN
   */
  static async check(
    { db, config }: { db: Database; config: Pick<Config, 'messaging'> },
    draft: Draft,
    record?: (tx: Transaction, content: MessageContent) => Promise<void>,
  ): Promise<GuardedPayload> {
    const { tenantId, patientId, attemptId } = draft
    // Read once: what is looked at is what is sent.
    const variables = { ...draft.variables }
    if (![tenantId, patientId, attemptId].every((id) => UUID.test(id))) {
      throw new TabibError(
        'MESSAGE_INVALID',
        'tenant, patient and attempt of a message are UUIDs; nothing was sent',
        {
          retryable: false,
        },
      )
    }
    const checked = await asTenant(db, tenantId, async (tx) => {
      const template = await templateOf(tx, draft)
      const patients = await knownPatients(tx, [patientId])
      // Of somebody unknown nothing can be looked for.
      if (patients.length === 0) {
        throw new TabibError('NOT_FOUND', `the tenant has no patient ${patientId}; nothing was sent`, {
          ref: RUNBOOK,
        })
      }
      const { kindsIn, holdsPartOfPhone, kindsAcross } = openPatientDataFinder(
        patients,
        `${template.subject ?? ''} ${template.body}`,
      )
      // What was given is looked at whatever it is: a name in a place for a time is a leak, not a slip.
      const evidence = Object.fromEntries(
        Object.entries(variables).flatMap(([name, value]) => {
          const text = textOf([name, value])
          const kinds = kindsIn(text)
          // A code or an amount may be most of a number.
          if (!kinds.includes('phone') && holdsPartOfPhone(text)) kinds.push('phone')
          return kinds.length === 0
            ? []
            : [[Object.hasOwn(template.variables, name) ? name : '(unknown)', kinds]]
        }),
      )
      const { channel, category } = template
      if (Object.keys(evidence).length === 0) {
        const { linkHosts } = config.messaging
        const rendered = renderTemplate(template, variables, { linkHosts })
        const inText = kindsIn(`${rendered.subject ?? ''}\n${rendered.body}`)
        const inAll = kindsAcross(shownVariables(template, variables))
        if (inText.length > 0) evidence['(text)'] = inText
        if (inAll.length > 0) evidence['(several variables)'] = inAll
        if (Object.keys(evidence).length === 0) {
          const to = await addressOf(tx, patients[0]!, channel, draft.recipient)
          const content = {
            tenantId,
            patientId,
            channel,
            category,
            template: draft.template,
            to,
            ...rendered,
          }
          await record?.(tx, content)
          return { content }
        }
      }
      const found: FoundPatientData = {
        ...{ tenantId, source: 'pre-send', place: attemptId, channel, category, evidence },
        template: draft.template,
      }
      await recordFinding(tx, found)
      return { found }
    })
    if ('found' in checked) {
      const { template, category, evidence } = checked.found!
      const kinds = [...new Set(Object.values(evidence).flat())].join(', ')
      throw refused(
        `${template!.id} version ${template!.version} would have carried patient data (${kinds}); nothing was sent, and ${category} is halted for the tenant`,
      )
    }
    return new GuardedPayload(CHECKED, checked.content)
  }
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** Where a patient is written to by a channel. @throws TabibError RECIPIENT_UNKNOWN, which repeats neither address. */
async function addressOf(
  tx: Queryable,
  { id, phone, email }: KnownPatient,
  channel: Channel,
  asked: string | null | undefined,
): Promise<string> {
  const [device] =
    channel === 'push'
      ? await tx.query<{ token: string | null }>(
          'select push_token as token from communication.contact where person_id = $1',
          [id],
        )
      : []
  const own = { sms: phone, email, push: device?.token }[channel]
  const why = own
    ? asked && !(await isSameAddress(tx, own, asked))
      ? `it is to go to another ${WAY[channel]} than the patient's own`
      : undefined
    : `the patient has no ${WAY[channel]}`
  if (why === undefined) return own!
  throw new TabibError('RECIPIENT_UNKNOWN', `${why}; nothing was sent`, { retryable: false })
}
const WAY = { sms: 'phone number', email: 'e-mail address', push: 'registered device' } as const

async function isSameAddress(tx: Queryable, own: string, asked: string): Promise<boolean> {
  if (own === asked) return true
  const [row] = await tx.query<{ same: boolean }>(
    `select length(communication.recipient_key($1)) >= 9
       and communication.recipient_key($1) = communication.recipient_key($2) as same`,
    [own, asked],
  )
  return row!.same
}

async function templateOf(tx: Queryable, { template: { id, version } }: Draft): Promise<Template> {
  const [found] = await tx.query<Template & { state: string; halted: boolean }>(
    `select id, version, channel, category, subject, body, variables, state,
       exists (select from communication.category_halt h where h.category = t.category and resumed_at is null) as halted
     from communication.template t where id = $1 and version = $2`,
    [id, version],
  )
  if (found === undefined || found.state === 'retired') {
    const why = found === undefined ? 'is not there' : 'is retired, since it carried patient data'
    throw new TabibError('TEMPLATE_NOT_FOUND', `template ${id} version ${version} ${why}; nothing was sent`, {
      suggestions: ['tabib messaging status'],
      ref: RUNBOOK,
      retryable: false,
    })
  }
  if (found.halted) {
    throw new TabibError('CATEGORY_HALTED', `${found.category} is halted for the tenant; nothing was sent`, {
      suggestions: ['tabib messaging status'],
      ref: RUNBOOK,
      retryable: true,
    })
  }
  return found
}

const refused = (message: string) =>
  new TabibError('PATIENT_DATA_REFUSED', message, {
    suggestions: ['tabib messaging status'],
    ref: RUNBOOK,
    retryable: false,
  })
