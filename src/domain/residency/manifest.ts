import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type CompactVerifyResult, compactVerify, createLocalJWKSet, type JSONWebKeySet } from 'jose'
import * as z from 'zod'
import type { Files } from '../../adapters/files/client.ts'
import { type KeyStore, SIGNING_ALGORITHMS, type StoredKey } from '../../adapters/keystore/client.ts'
import { TabibError } from '../../errors.ts'
import { signJws } from '../keys/jws.ts'

/** Keeps a manifest from passing for another kind of token (RFC 8725 section 3.11). */
export const MANIFEST_TYPE = 'tabib-backup-manifest+jws'
/** Whose active key signs manifests. */
export const MANIFEST_PURPOSE = 'backup-manifest'
const SUFFIX = '.manifest.jws'
const LABEL = /^[A-Za-z0-9][\w.:-]*$/

const manifestSchema = z.object({
  label: z.string().regex(LABEL),
  systemIdentifier: z.string().regex(/^\d+$/),
  region: z.string(),
  keyRegion: z.string(),
  tenantSetHash: z.string().regex(/^[0-9a-f]{64}$/),
  iat: z.number(),
})

/** What a manifest says, and whose signature it bears. */
export interface SignedManifest extends Manifest {
  kid: string
}

/** What is said of one backup. */
export interface Manifest {
  /** The backup's own name. */
  label: string
  systemIdentifier: string
  /** Where the backup lies. */
  region: string
  /** Where the key lies that the backup is encrypted with. */
  keyRegion: string
  tenantSetHash: string
  /** When it was signed, in seconds since 1970 (RFC 7519). */
  iat: number
}

/** Signs a manifest and puts it into the folder under its label, whole or not at all; the same label is replaced. */
export async function writeManifest(
  { keyStore }: { keyStore: KeyStore },
  { folder, key, manifest }: { folder: string; key: StoredKey; manifest: Manifest },
): Promise<{ path: string }> {
  const path = join(folder, `${manifest.label}${SUFFIX}`)
  const jws = await signJws({ keyStore }, { key, typ: MANIFEST_TYPE, payload: manifest })
  try {
    await writeFile(`${path}.draft`, `${jws}\n`)
    await rename(`${path}.draft`, path)
  } catch (cause) {
    throw unreadable(folder, cause, 'write to')
  }
  return { path }
}

/** @throws TabibError USAGE for a label that cannot be a file's name. */
export function assertLabel(label: string): void {
  if (LABEL.test(label)) return
  throw new TabibError('USAGE', `"${label}" is no backup label: letters, digits and . _ : - alone`)
}

/** Labels of all manifests in the folder. @throws TabibError NOT_FOUND */
export async function listManifests(files: Files, folder: string): Promise<string[]> {
  const names = await files.list(folder).catch((cause) => {
    throw unreadable(folder, cause, 'read')
  })
  return names
    .filter((name) => name.endsWith(SUFFIX))
    .map((name) => name.slice(0, -SUFFIX.length))
    .sort()
}

/**
 * The label of the newest manifest by what each says of itself, proven or not: one that cannot be read counts as the
 * newest, since nothing shows that it is not.
 * @throws TabibError NOT_FOUND when there is none.
 */
export async function newestLabel(files: Files, folder: string): Promise<string> {
  const labels = await listManifests(files, folder)
  const ages = await Promise.all(
    labels.map(async (label) => ({ label, iat: claimedTime(await readJws(files, folder, label)) })),
  )
  const [newest] = ages.sort((a, b) => b.iat - a.iat)
  if (newest) return newest.label
  throw noManifest(folder)
}

/** What to say of a folder without a manifest. */
export const noManifest = (folder: string): TabibError =>
  new TabibError('NOT_FOUND', `no backup manifest lies in ${folder}`, { suggestions: [MAKE] })

/**
 * A backup's manifest, once a trusted key's signature holds and it names the backup that it lies beside. Needs no
 * server. Whether its age, its regions and its tenants will do is the caller's to judge.
 * @throws TabibError NOT_FOUND, MANIFEST_INVALID saying what does not hold.
 */
export async function readManifest(
  files: Files,
  folder: string,
  label: string,
  trusted: JSONWebKeySet,
): Promise<SignedManifest> {
  const invalid = (why: string, cause?: unknown) =>
    new TabibError('MANIFEST_INVALID', `the manifest of backup ${label} is not believed: ${why}`, {
      suggestions: [MAKE.replace('<label>', label)],
      cause,
    })
  const jws = await readJws(files, folder, label)
  let verified: CompactVerifyResult
  try {
    verified = await compactVerify(jws, createLocalJWKSet(trusted), { algorithms: [...SIGNING_ALGORITHMS] })
  } catch (cause) {
    throw invalid(`no trusted key's signature holds (${(cause as Error).message})`, cause)
  }
  const { typ, kid } = verified.protectedHeader
  if (typ !== MANIFEST_TYPE) throw invalid(`it is a "${typ}"`)
  // jose then takes the only key there is, and whether that was revoked is asked by its kid.
  if (kid === undefined) throw invalid('it does not name the key that signed it')
  const claims = manifestSchema.safeParse(parseJson(new TextDecoder().decode(verified.payload)))
  if (!claims.success) throw invalid('its claims are not those of a manifest', claims.error)
  if (claims.data.label !== label) throw invalid(`it was signed for backup ${claims.data.label}`)
  return { ...claims.data, kid }
}

const keySet = z.object({ keys: z.array(z.looseObject({ kty: z.string() })).min(1) })

/** The public keys whose manifests are believed. @throws TabibError CONFIG_INVALID */
export async function readTrustedKeys(files: Files, file: string): Promise<JSONWebKeySet> {
  const text = await files.read(file).catch((cause) => {
    throw new TabibError('CONFIG_INVALID', `residency.trustedKeys: cannot read ${file}: ${cause.code}`, {
      cause,
    })
  })
  const parsed = keySet.safeParse(parseJson(text))
  if (!parsed.success || parsed.data.keys.some((key) => 'd' in key || 'k' in key)) {
    throw new TabibError(
      'CONFIG_INVALID',
      `residency.trustedKeys: ${file} is no set of public keys (RFC 7517)`,
    )
  }
  return parsed.data as JSONWebKeySet
}

const MAKE = 'tabib residency manifest <label> --region <region> --key-region <region>'

const readJws = (files: Files, folder: string, label: string): Promise<string> =>
  files.read(join(folder, `${label}${SUFFIX}`)).then(
    (text) => text.trim(),
    (cause) => {
      if (cause.code !== 'ENOENT') throw unreadable(folder, cause, 'read')
      throw new TabibError('NOT_FOUND', `backup ${label} has no manifest in ${folder}`, {
        suggestions: [MAKE.replace('<label>', label)],
      })
    },
  )

function claimedTime(jws: string): number {
  const payload = parseJson(Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString())
  const { iat } = (payload ?? {}) as { iat?: unknown }
  return typeof iat === 'number' ? iat : Number.POSITIVE_INFINITY
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const unreadable = (folder: string, cause: unknown, what: string) =>
  new TabibError('NOT_FOUND', `cannot ${what} ${folder}: ${(cause as NodeJS.ErrnoException).code}`, { cause })
