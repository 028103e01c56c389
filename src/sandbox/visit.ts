import { randomUUID } from 'node:crypto'
import type { KeyStore } from '../adapters/keystore/client.ts'
import type { Nats } from '../adapters/nats/client.ts'
import type { Database } from '../adapters/postgres/client.ts'
import type { KeyPolicy } from '../domain/keys/phase.ts'
import { rotateKeys } from '../domain/keys/rotate.ts'
import { type Audience, issueServiceToken, SERVICE_TOKEN } from '../domain/sessions/caller.ts'
import { JOIN_TOKEN } from '../domain/sessions/join-token.ts'
import { TabibError } from '../errors.ts'

/** A live session with two people in it, and a service that may ask for their join tokens. */
export interface Visit {
  readonly tenantId: string
  readonly sessionId: string
  /** The patient's, and the clinician's. */
  readonly participantIds: [patient: string, clinician: string]
  /** Bearers of the services that call virtual care and billing for this tenant. */
  readonly serviceToken: string
  readonly billingToken: string
}

/** The API of virtual care and billing, as a service and a participant's client call it. */
export interface Api {
  readonly url: string
  /** Asks for a join token: the patient's, unless told otherwise. */
  ask(visit: Visit, participantId?: string): Promise<Answer>
  /** Joins with a token. */
  join(visit: Visit, token: string): Promise<Answer>
  /** Sends a payment or a charge of the visit's tenant under an Idempotency-Key. */
  write(visit: Visit, route: 'payments' | 'charges', key: string, body: object): Promise<Written>
  /** Charges somebody new a consultation, and returns the account that they owe it on. */
  owe(visit: Visit): Promise<string>
}

export interface Written {
  status: number
  /** As it came, byte for byte. */
  text: string
  replayed: boolean
}

export interface Answer {
  status: number
  body: { token?: string; code?: string; refresh?: { method: string; href: string } }
}

export function apiAt(url: string): Api {
  const post = async (visit: Visit, door: string, bearer: string, body?: object): Promise<Answer> => {
    const response = await fetch(`${url}/api/v1/virtual-care/sessions/${visit.sessionId}/${door}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${bearer}`, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: (await response.json()) as Answer['body'] }
  }
  const write: Api['write'] = async (visit, route, key, body) => {
    const response = await fetch(`${url}/api/v1/billing/${route}`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${visit.billingToken}`,
        'content-type': 'application/json',
        'idempotency-key': `"${key}"`,
      },
      body: JSON.stringify(body),
    })
    const replayed = response.headers.get('idempotency-replayed') === 'true'
    return { status: response.status, text: await response.text(), replayed }
  }
  return {
    url,
    write,
    async owe(visit) {
      const ask = { patientId: randomUUID(), code: 'CONSULT-REMOTE' }
      const { status, text } = await write(visit, 'charges', randomUUID(), ask)
      if (status !== 201) throw new TabibError('SERVER_FAILED', `the charge was refused: ${text}`)
      return JSON.parse(text).accountId
    },
    ask: (visit, participantId = visit.participantIds[0]) =>
      post(visit, 'join-token', visit.serviceToken, { participantId }),
    join: (visit, token) => post(visit, 'join', token),
  }
}

/** Makes a visit of a tenant, with the keys that sign for it where there are none yet. */
export async function makeVisit(
  systems: { db: Database; service: Database; nats: Nats; keyStore(): Promise<KeyStore> },
  tenantId: string,
): Promise<Visit> {
  for (const { purpose } of [SERVICE_TOKEN, JOIN_TOKEN]) await ensureKey(systems, purpose)
  const [sessionId, patientId] = [randomUUID(), randomUUID()]
  const participantIds = await systems.service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query(
      `insert into virtual_care.session (id, tenant_id, patient_id, status, started_at)
       values ($1, $2, $3, 'active', now())`,
      [sessionId, tenantId, patientId],
    )
    const people = await tx.query<{ id: string }>(
      `insert into virtual_care.participant (tenant_id, session_id, person_id, role)
       values ($1, $2, $3, 'patient'), ($1, $2, gen_random_uuid(), 'clinician') returning id`,
      [tenantId, sessionId, patientId],
    )
    return people.map(({ id }) => id) as Visit['participantIds']
  })
  const tokenOf = (service: string, audience: Audience) =>
    issueServiceToken(systems, { service, tenantId, audience, lifetimeS: 300 })
  const [{ token: serviceToken }, { token: billingToken }] = await Promise.all([
    tokenOf('scheduling', 'virtual-care'),
    tokenOf('cashier', 'billing'),
  ])
  return { tenantId, sessionId, participantIds, serviceToken, billingToken }
}

/** The first key of a purpose signs at once: nobody holds another. */
export async function ensureKey(
  systems: { db: Database; nats: Nats; keyStore(): Promise<KeyStore> },
  purpose: string,
  policy: KeyPolicy = { overlapS: 1_200, cacheAgeS: 600, skewS: 5, tokenLifetimeS: 300, allAttest: true },
): Promise<void> {
  const signing = await systems.db.query(
    `select kid from tabib.signing_key where purpose = $1 and phase = 'activate'`,
    [purpose],
  )
  if (signing.length > 0) return
  await rotateKeys(systems, { purpose, algorithm: 'ES256', policy, by: 'sandbox' })
}
