import { createHash, randomUUID } from 'node:crypto'
import { compactVerify, decodeProtectedHeader, importJWK, type JWK } from 'jose'
import * as z from 'zod'
import { type KeyStore, SIGNING_ALGORITHMS } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { counted, details, mark } from '../../render.ts'
import { signJws } from '../keys/jws.ts'
import { activeKey } from '../keys/sign.ts'

/** Whose active key signs certificates. */
export const CERTIFICATE_PURPOSE = 'erasure-certificate'
/** Keeps a certificate from passing for another kind of token (RFC 8725 section 3.11). */
const CERTIFICATE_TYPE = 'tabib-erasure-certificate+jws'

const count = z.int().min(0)
const share = z.number().min(0)
const time = z.iso.datetime()

/** What keeps an erasure from being complete: everything that somebody could do something about. */
const OPEN_KINDS = [
  'step',
  'watch',
  'legal hold',
  'list',
  'residue',
  'returned',
  'scan',
  'unread',
  'inventory',
] as const

/**
 * What a certificate says. Nothing of it tells who the subject is: without the platform's erasure secret the hash leads to
 * nobody.
 */
export const certificateSchema = z.object({
  iss: z.literal('tabib'),
  jti: z.uuid(),
  /** Seconds since 1970. A certificate has no end: it says what was at that moment. */
  iat: z.number(),
  version: z.string().describe("tabib's"),
  context: z.string(),
  outcome: z.enum(['complete', 'open']).describe('complete: nothing under `open`'),
  tenantId: z.uuid(),
  subject: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .describe('keyed hash: HMAC-SHA-256 of tenant and subject'),
  open: z
    .array(z.object({ what: z.enum(OPEN_KINDS), detail: z.string(), fix: z.string().nullable() }))
    .describe(
      'what keeps the erasure from being complete: steps that are not done or not read again, the 24 hours, legal holds, a request that does not stand in the list outside of the database, identifiers that were found, ids that are there again, a scan that would miss too much, stores that were not read or not whole, what nobody classified',
    ),
  requests: z.array(
    z.object({
      id: z.uuid(),
      follows: z.uuid().nullable(),
      orderDigest: z.string().describe('SHA-256 of the signed order'),
      state: z.string(),
      requestedAt: time,
      completedAt: time.nullable(),
      steps: z.array(
        z.object({
          participant: z.string(),
          stage: z.int(),
          state: z.string(),
          rounds: z.int(),
          attempts: z.int(),
          rows: z.record(z.string(), count).describe('by table, over all rounds'),
          position: z.string().nullable().describe('where the last acknowledgement stands in its store'),
          acknowledgedAt: time.nullable(),
          rereadAt: time.nullable().describe('and nothing was found'),
          rereadAfterWatchAt: time.nullable(),
        }),
      ),
    }),
  ),
  rows: count.describe('that were erased, cleared or pseudonymised in all'),
  deadline: z.object({
    at: time,
    days: z.number(),
    usedDays: z.number(),
    used: share.describe('1: all of it'),
    met: z.boolean(),
  }),
  coverage: z.object({
    inventory: z.string().describe('SHA-256 of the inventory that it was held against'),
    unclassified: count,
    participants: z.array(
      z.object({
        participant: z.string(),
        items: count,
        byClass: z.record(z.string(), count),
        acknowledged: z.boolean(),
      }),
    ),
    heldByLaw: z
      .array(z.object({ object: z.string(), hold: z.string(), retention: z.string() }))
      .describe('kept, and what is kept is pseudonymised where it was a subject key'),
    expiring: z
      .array(z.object({ object: z.string(), class: z.string(), retention: z.string() }))
      .describe('not erased by anybody; ends by its retention'),
  }),
  holds: z.array(
    z.object({
      authority: z.string(),
      participants: z.array(z.string()).nullable().describe('null: all'),
      placedAt: time,
    }),
  ),
  scan: z.object({
    places: count,
    rows: count,
    bytes: count,
    wallS: z.number(),
    cpuS: z.number().describe('of the whole pass, with reading from the servers'),
    scanCpuS: z.number().describe('of the scanner'),
    bytesPerCpuS: z.number().describe('of the scanner'),
    searchedFor: z.record(z.string(), count).describe('fingerprints by kind of identifier'),
    hits: z.array(z.object({ object: z.string(), kind: z.string(), count })),
    canaries: z.object({
      planted: count,
      found: count,
      recall: share,
      lowerBound: share,
      confidence: share,
    }),
    cutShort: count,
  }),
  gaps: z
    .array(z.string())
    .describe(
      'limits of what this method can tell, which no further reading would lift; they do not keep it from being complete. What could have been read and was not stands under open',
    ),
})
export type Statement = z.output<typeof certificateSchema>

/**
 * Signs a statement with the key that is active for certificates.
 * @throws TabibError NOT_FOUND when no key signs for them, KEY_STORE_UNREACHABLE, KEY_ELSEWHERE.
 */
export async function signCertificate(
  { db, keyStore }: { db: Queryable; keyStore(): Promise<KeyStore> },
  statement: Omit<Statement, 'iss' | 'jti' | 'iat'>,
): Promise<{ certificate: string; statement: Statement }> {
  const { key, nowS } = await activeKey({ db }, { purpose: CERTIFICATE_PURPOSE })
  const payload = { iss: 'tabib', jti: randomUUID(), iat: nowS, ...statement } as Statement
  const certificate = await signJws({ keyStore: await keyStore() }, { key, typ: CERTIFICATE_TYPE, payload })
  return { certificate, statement: payload }
}

const jwksSchema = z.looseObject({
  keys: z.array(z.looseObject({ kid: z.string() })),
  revoked: z.array(z.string()).default([]),
})

/**
 * What a certificate says, if its signature holds by one of the keys of a JWK Set (RFC 7517). Asks no server.
 * @throws TabibError CERTIFICATE_INVALID, saying what does not hold; USAGE for a set that is none.
 */
export async function verifyCertificate(certificate: string, jwks: unknown): Promise<Statement> {
  // The set as `keys jwks` prints it, or the envelope that has it as its result.
  const set = jwksSchema.safeParse((jwks as { result?: unknown })?.result ?? jwks)
  if (!set.success) {
    throw new TabibError('USAGE', 'the keys are no JWK Set: an object with "keys" is wanted', {
      suggestions: [`tabib keys jwks --purpose ${CERTIFICATE_PURPOSE} > keys.json`],
    })
  }
  const { kid, typ } = headerOf(certificate)
  const key = set.data.keys.find((one) => one.kid === kid)
  if (set.data.revoked.includes(kid ?? '')) throw invalid(`the key ${kid} that signed it is revoked`)
  if (key === undefined) throw invalid(`it is signed by the key ${kid}, which is not in the set`)
  if (typ !== CERTIFICATE_TYPE) throw invalid(`it is a "${typ}"`)
  const { payload } = await importJWK(key as JWK)
    .then((imported) => compactVerify(certificate, imported, { algorithms: [...SIGNING_ALGORITHMS] }))
    .catch((cause) => {
      throw invalid('its signature does not hold', cause)
    })
  const parsed = certificateSchema.safeParse(JSON.parse(Buffer.from(payload).toString()))
  if (!parsed.success) throw invalid('it does not say what a certificate says', parsed.error)
  return parsed.data
}

function headerOf(certificate: string): { kid?: string; typ?: string } {
  try {
    return decodeProtectedHeader(certificate)
  } catch (cause) {
    throw invalid('it is no JWS', cause)
  }
}

const invalid = (why: string, cause?: unknown) =>
  new TabibError('CERTIFICATE_INVALID', `the certificate is not believed: ${why}`, {
    cause,
    suggestions: [
      `tabib keys jwks --purpose ${CERTIFICATE_PURPOSE} > keys.json    # of the time when it was made`,
    ],
  })

/** SHA-256 of a list, in hex. */
export const digestOf = (value: unknown): string =>
  createHash('sha256').update(JSON.stringify(value)).digest('hex')

/** As `erasure list` names a subject. */
export const shortSubject = (subject: string): string => `subject-${subject.slice(0, 12)}`

/** A statement in a few lines. */
export function certificateText({
  subject,
  outcome,
  open,
  requests,
  rows,
  deadline,
  coverage,
  holds,
  scan,
  gaps,
}: Omit<Statement, 'iss' | 'jti' | 'iat'>): string {
  const { canaries } = scan
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`
  const items = coverage.participants.reduce((sum, { items }) => sum + items, 0)
  return [
    `${mark(outcome === 'complete' ? 'ok' : 'failed')} ${shortSubject(subject)}: ${outcome}`,
    ...open.map(({ what, detail }) => `  ${mark('failed')} ${what}: ${detail}`),
    details({
      requests: requests.map(({ id }) => id).join(', '),
      erased: `${counted(rows, 'row')} by ${counted(coverage.participants.filter((one) => one.acknowledged).length, 'participant')}, of ${counted(items, 'classified item')}`,
      deadline: `${deadline.at}: ${deadline.usedDays} of ${deadline.days} days used (${percent(deadline.used)})${deadline.met ? '' : ', missed'}`,
      'legal holds': holds.map(({ authority }) => authority).join(', ') || 'none',
      scan: `${counted(scan.rows, 'row')} in ${counted(scan.places, 'place')}, ${(scan.bytes / 1e6).toFixed(1)} MB at ${(scan.bytesPerCpuS / 1e6).toFixed(0)} MB a CPU-second: ${scan.hits.length === 0 ? 'nothing' : counted(scan.hits.length, 'place with something')} left`,
      recall: `${canaries.found} of ${canaries.planted} planted identifiers found; at least ${percent(canaries.lowerBound)} at 95 % confidence`,
      limits: gaps.join('; '),
    }),
  ].join('\n')
}
