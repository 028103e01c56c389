import { generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AwsV4Signer } from 'aws4fetch'
import { execa } from 'execa'
import fc from 'fast-check'
import { base64url, compactVerify, importJWK } from 'jose'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type KeyStore, openKeyStore, SIGNING_ALGORITHMS } from '../src/adapters/keystore/client.ts'
import { p1363FromDer } from '../src/adapters/keystore/der.ts'
import { signJws } from '../src/domain/keys/jws.ts'
import { packageRoot } from '../src/package-root.ts'
import { makeSoftHsm } from '../src/sandbox/servers/softhsm.ts'
import { type KmsSimulator, startKms } from '../src/sandbox/simulators/kms.ts'

let folder: string
let kms: KmsSimulator
/** Each kind of store: its URL, what opens it, what it refuses, and a URL where none is. */
const stores: Record<string, { url: string; secret: string; wrong: string; away: string }> = {}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-keystore-'))
  kms = await startKms()
  const hsm = await makeSoftHsm(folder)
  stores.file = {
    url: `file:${folder}/keys`,
    secret: randomBytes(24).toString('base64'),
    wrong: 'not the passphrase of this folder',
    away: `file:${folder}/file.secret`,
  }
  stores.pkcs11 = {
    url: hsm.keyStore,
    secret: hsm.pin,
    wrong: '0000',
    away: hsm.keyStore.replace('token=tabib', 'token=pulled-out'),
  }
  stores.kms = {
    url: kms.keyStore,
    secret: kms.credentials,
    wrong: kms.credentials.replace(/(secret_access_key = ).*/, '$1stolen'),
    away: 'kms:http://127.0.0.1:1?region=nowhere',
  }
})
afterAll(async () => {
  await kms[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})

const IDENTITIES: Record<string, RegExp> = {
  file: /^file:[0-9a-f]{16}$/,
  pkcs11: /^pkcs11:tabib\/[0-9a-f]{16}$/,
  kms: /^kms:af-sandbox-1\/000000000000$/,
}

const secretFile = async (name: string, text: string, mode = 0o600) => {
  const path = join(folder, name)
  await writeFile(path, text, { mode })
  return path
}
const open = async (kind: string, change: { url?: string; secret?: string } = {}): Promise<KeyStore> => {
  const { url, secret } = { ...stores[kind]!, ...change }
  return openKeyStore({ url, secretFile: await secretFile(`${kind}.secret`, secret), fetch })
}

describe.each(['file', 'pkcs11', 'kms'])('a key store of kind %s', (kind) => {
  test.each(SIGNING_ALGORITHMS)(
    'makes %s keys that sign after it was opened again, until destroyed',
    async (algorithm) => {
      await using first = await open(kind)
      const { ref, publicJwk } = await first.generate(algorithm)
      await using keyStore = await open(kind)
      const key = await keyStore.find(ref)
      expect(key).toEqual({ ref, algorithm, publicJwk })
      expect(publicJwk).toMatchObject({ kid: ref, alg: algorithm, use: 'sig' })
      const signAll = Array.from({ length: 20 }, (_, n) =>
        signJws({ keyStore }, { key, typ: 'test', payload: { n, filling: 'x'.repeat(n * 100) } }),
      )
      for (const [n, jws] of (await Promise.all(signAll)).entries()) {
        const { payload, protectedHeader } = await compactVerify(jws, await importJWK(publicJwk))
        expect(JSON.parse(new TextDecoder().decode(payload))).toMatchObject({ n })
        expect(protectedHeader).toEqual({ alg: algorithm, kid: ref, typ: 'test' })
      }
      await keyStore.destroy(ref)
      await keyStore.destroy(ref)
      await expect(keyStore.sign(ref, new Uint8Array())).rejects.toMatchObject({ code: 'NOT_FOUND' })
      await using again = await open(kind)
      await expect(again.find(ref)).rejects.toMatchObject({ code: 'NOT_FOUND' })
    },
  )

  test('gives no private member of a key, and none through its calls', async () => {
    await using keyStore = await open(kind)
    const { ref } = await keyStore.generate('ES256')
    const seen = JSON.stringify(await keyStore.find(ref))
    for (const member of ['"d"', '"p"', '"q"', '"k"']) expect(seen).not.toContain(member)
    expect(Object.keys(keyStore).sort()).toEqual(['destroy', 'find', 'generate', 'identity', 'ping', 'sign'])
  })

  test('has an identity that it keeps, and a KMS without the key does not claim to be the one with it', async () => {
    await using keyStore = await open(kind)
    const { ref } = await keyStore.generate('ES256')
    const identity = await keyStore.identity(ref)
    expect(identity).toMatch(IDENTITIES[kind]!)
    await keyStore.destroy(ref)
    await using again = await open(kind)
    expect(await again.identity(ref)).toBe(identity)
    if (kind === 'kms') expect(await again.identity('A'.repeat(43))).toBe('kms:af-sandbox-1/?')
  })

  test('does not know a key that it did not make', async () => {
    await using keyStore = await open(kind)
    for (const ref of ['../../etc/passwd', '', 'A'.repeat(43)]) {
      await expect(keyStore.find(ref)).rejects.toMatchObject({ code: 'NOT_FOUND' })
      await keyStore.destroy(ref)
    }
  })

  test('refuses another secret, and never repeats it', async () => {
    await (await open(kind))[Symbol.asyncDispose]()
    await using keyStore = await open(kind, { secret: stores[kind]!.wrong })
    const refused = await keyStore.ping().catch((error) => error)
    expect(refused).toMatchObject({ code: 'NOT_AUTHORISED', exitCode: 4 })
    for (const secret of [stores[kind]!.wrong, stores[kind]!.secret])
      expect(String(refused)).not.toContain(secret)
  })

  test('that is away ends with KEY_STORE_UNREACHABLE, exit 3', async () => {
    const away = async () => {
      await using keyStore = await open(kind, { url: stores[kind]!.away })
      await keyStore.ping()
    }
    await expect(away()).rejects.toMatchObject({
      code: 'KEY_STORE_UNREACHABLE',
      exitCode: 3,
      retryable: true,
    })
  })

  test('wants a secret file that nobody else may read', async () => {
    const { url, secret } = stores[kind]!
    const opening = async (secretFile?: string) => {
      await using keyStore = await openKeyStore({ url, secretFile, fetch })
      await keyStore.ping()
    }
    await expect(opening()).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
    await expect(opening(await secretFile('open', secret, 0o644))).rejects.toThrow(/read by others/)
    await expect(opening(join(folder, 'none'))).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
  })

  test('is told by doctor: in order, refused, away', async () => {
    const examine = async (change: { url?: string; secret?: string } = {}) => {
      const { url, secret } = { ...stores[kind]!, ...change }
      const { stdout } = await execa(
        process.execPath,
        [join(packageRoot(), 'bin/run.js'), 'doctor', '--json'],
        {
          env: { TABIB_KEY_STORE: url, TABIB_KEY_STORE_SECRET_FILE: await secretFile('doctor', secret) },
          reject: false,
        },
      )
      return JSON.parse(stdout).result.checks.find(({ name }: { name: string }) => name === 'key store')
        .outcome
    }
    await using keyStore = await open(kind)
    await keyStore.generate('ES256')
    expect(await examine()).toBe('ok')
    expect(await examine({ secret: stores[kind]!.wrong })).toBe('failed')
    expect(await examine({ url: stores[kind]!.away })).toBe('failed')
  })
})

test('no private member of a key lies open in the folder of encrypted files', async () => {
  await using keyStore = await open('file')
  await keyStore.generate('RS256')
  for (const name of await readdir(join(folder, 'keys'))) {
    expect(await readFile(join(folder, 'keys', name), 'utf8')).not.toContain('"d"')
  }
})

test('a folder of encrypted files takes no key under a second passphrase', async () => {
  await using keyStore = await open('file')
  await keyStore.generate('ES256')
  const before = await readdir(join(folder, 'keys'))
  await using other = await open('file', { secret: stores.file!.wrong })
  await expect(other.generate('ES256')).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
  expect(await readdir(join(folder, 'keys'))).toEqual(before)
})

test('a folder that was there before its keys keeps its mode', async () => {
  const shared = join(folder, 'shared')
  await mkdir(shared)
  await chmod(shared, 0o755)
  await using keyStore = await open('file', { url: `file:${shared}` })
  await keyStore.ping()
  expect((await stat(shared)).mode & 0o777).toBe(0o755)
})

test('a passphrase that is too short is refused', async () => {
  await expect(open('file', { secret: 'short' })).rejects.toThrow(/5 characters/)
})

test('keys in a token are sensitive and cannot be extracted', async () => {
  await using keyStore = await open('pkcs11')
  const { ref } = await keyStore.generate('ES256')
  const { default: p11 } = (await import('pkcs11js')) as unknown as { default: typeof import('pkcs11js') }
  const module = new p11.PKCS11()
  module.load(stores.pkcs11!.url.split('module-path=')[1]!)
  module.C_Initialize()
  const session = module.C_OpenSession(module.C_GetSlotList(true)[0]!, p11.CKF_SERIAL_SESSION)
  module.C_Login(session, p11.CKU_USER, stores.pkcs11!.secret)
  module.C_FindObjectsInit(session, [
    { type: p11.CKA_CLASS, value: p11.CKO_PRIVATE_KEY },
    { type: p11.CKA_ID, value: Buffer.from(ref) },
  ])
  const key = module.C_FindObjects(session)!
  module.C_FindObjectsFinal(session)
  const flags = [p11.CKA_SENSITIVE, p11.CKA_ALWAYS_SENSITIVE, p11.CKA_EXTRACTABLE, p11.CKA_NEVER_EXTRACTABLE]
  const values = module.C_GetAttributeValue(
    session,
    key,
    flags.map((type) => ({ type })),
  )
  expect(values.map(({ value }) => value[0])).toEqual([1, 1, 0, 1])
  expect(() => module.C_GetAttributeValue(session, key, [{ type: p11.CKA_VALUE }])).toThrow(/SENSITIVE/)
  module.C_CloseSession(session)
  module.C_Finalize()
})

test('a PKCS#11 module that crashes takes nobody with it, and is started again', async () => {
  await using keyStore = await open('pkcs11')
  const { ref } = await keyStore.generate('ES256')
  const { stdout } = await execa('pgrep', ['-P', `${process.pid}`, '-f', 'pkcs11-process'])
  for (const pid of stdout.split('\n')) process.kill(Number(pid), 'SIGSEGV')
  await vi.waitFor(async () => expect(await keyStore.sign(ref, Buffer.from('x'))).toHaveLength(64), {
    timeout: 20_000,
  })
})

test.each([
  ['ftp:keys', /"ftp:" is no key store/],
  ['pkcs11:?module-path=/x.so', /names no token/],
  ['pkcs11:token=t', /names no module/],
  ['pkcs11:token=t?module-path=/x.so&pin-value=1234', /has pin-value,/],
  ['pkcs11:token?module-path=/x.so&pin-value', /has pin-value,/],
  ['pkcs11:token=%zz?module-path=/x.so', /% that begins no character/],
  ['keys', /"keys:" is no key store/],
  ['kms:eu-central-1', /kms: and an https/],
  ['kms:http://kms.eu-central-1.amazonaws.com', /must be reached by https/],
  ['kms:https://10.0.0.1', /which region/],
])('the URL %s is refused', async (url, why) => {
  await expect(openKeyStore({ url, fetch })).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringMatching(why),
  })
})

describe('KMS', () => {
  const send = async (
    change: Partial<ConstructorParameters<typeof AwsV4Signer>[0]> = {},
    alter = (body: string) => body,
    alterHeader = (authorization: string) => authorization,
  ) => {
    const [, id = '', secret = ''] = /= (\S+)\n.*= (\S+)/.exec(kms.credentials)!
    const body = '{"KeyId":"alias/none"}'
    const signer = new AwsV4Signer({
      url: new URL('/', kms.keyStore.slice(4)).href,
      headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': 'TrentService.DescribeKey' },
      body,
      accessKeyId: id,
      secretAccessKey: secret,
      service: 'kms',
      region: 'af-sandbox-1',
      ...change,
    })
    const { url, method, headers } = await signer.sign()
    headers.set('authorization', alterHeader(headers.get('authorization')!))
    const response = await fetch(url, { method, headers, body: alter(body) })
    return ((await response.json()) as { __type: string }).__type
  }
  const at = (minutes: number) =>
    new Date(Date.now() + minutes * 60_000).toISOString().replace(/[:-]|\.\d{3}/g, '')

  test('refuses requests that are not signed, with the errors of the real one', async () => {
    expect(await send()).toBe('NotFoundException')
    expect(await send({ datetime: at(-4) })).toBe('NotFoundException')
    expect(await send({ datetime: at(-6) })).toBe('InvalidSignatureException')
    expect(await send({ datetime: at(6) })).toBe('InvalidSignatureException')
    const unsorted = (header: string) => header.replace('host;x-amz-date', 'x-amz-date;host')
    expect(await send({}, undefined, unsorted)).toBe('IncompleteSignatureException')
    expect(await send({ secretAccessKey: 'other' })).toBe('InvalidSignatureException')
    expect(await send({ accessKeyId: 'other' })).toBe('UnrecognizedClientException')
    expect(await send({ region: 'us-east-1' })).toBe('InvalidSignatureException')
    expect(await send({}, () => '{"KeyId":"alias/other"}')).toBe('InvalidSignatureException')
    const unsigned = await fetch(new URL('/', kms.keyStore.slice(4)), { method: 'POST', body: '{}' })
    expect(await unsigned.json()).toMatchObject({ __type: 'MissingAuthenticationTokenException' })
  })

  test.each([{ status: 503 }, 'drop', 'garbage'] as const)(
    'that misbehaves (%j) is tried again, and is no crash',
    async (fault) => {
      await using keyStore = await open('kms')
      const { ref } = await keyStore.generate('ES256')
      const before = kms.calls.get('Sign') ?? 0
      kms.misbehave(fault)
      try {
        await expect(keyStore.sign(ref, Buffer.from('x'))).rejects.toMatchObject({
          code: 'KEY_STORE_UNREACHABLE',
        })
      } finally {
        kms.misbehave(undefined)
      }
      expect(kms.calls.get('Sign')).toBe(before + 3)
      expect(await keyStore.sign(ref, Buffer.from('x'))).toHaveLength(64)
    },
  )

  test('that may have made a key is not asked for another', async () => {
    await using keyStore = await open('kms')
    const before = kms.calls.get('CreateKey') ?? 0
    kms.misbehave('drop')
    await expect(keyStore.generate('ES256')).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
    kms.misbehave(undefined)
    expect(kms.calls.get('CreateKey')).toBe(before + 1)
  })

  test.each(['CreateAlias', 'ScheduleKeyDeletion'])(
    'whose answer to %s is lost is asked again, and has done it once',
    async (operation) => {
      await using keyStore = await open('kms')
      kms.misbehave({ losesAnswerOf: operation })
      const { ref } = await keyStore.generate('ES256')
      await using other = await open('kms')
      expect((await other.find(ref)).ref).toBe(ref)
      await keyStore.destroy(ref)
      await expect(other.sign(ref, Buffer.from('x'))).rejects.toMatchObject({ code: 'NOT_FOUND' })
      await keyStore.destroy(ref)
    },
  )

  test('that says the clocks differ is heard', async () => {
    const server = createServer((_request, response) => {
      response.writeHead(400, { date: new Date(Date.now() + 600_000).toUTCString() })
      response.end('{"__type":"InvalidSignatureException","message":"Signature expired"}')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    await using keyStore = await open('kms', { url: `kms:http://127.0.0.1:${port}?region=r` })
    await expect(keyStore.ping()).rejects.toMatchObject({
      code: 'NOT_AUTHORISED',
      message: expect.stringMatching(/the clock of this host is (599|600) s behind/),
    })
    server.closeAllConnections()
    server.close()
  })
})

describe('an ECDSA signature in DER', () => {
  test('is the same signature in r‖s', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    // Enough that integers of every length and either padding are among them.
    for (let n = 0; n < 600; n += 1) {
      const jws = `${base64url.encode('{"alg":"ES256"}')}.${base64url.encode(`${n}`)}`
      const signature = p1363FromDer(sign('sha256', Buffer.from(jws), privateKey), 32)
      await compactVerify(`${jws}.${base64url.encode(signature)}`, publicKey)
    }
  })

  test('of any two numbers comes back, and anything else is refused', () => {
    const number = fc.uint8Array({ minLength: 1, maxLength: 32 }).filter((bytes) => bytes[0] !== 0)
    const integer = (bytes: Uint8Array) => {
      const body = bytes[0]! >= 0x80 ? Buffer.from([0, ...bytes]) : Buffer.from(bytes)
      return Buffer.concat([Buffer.from([2, body.length]), body])
    }
    const right = (bytes: Uint8Array) => Buffer.concat([Buffer.alloc(32 - bytes.length), bytes])
    fc.assert(
      fc.property(number, number, fc.nat(), fc.integer({ min: 1, max: 255 }), (r, s, where, change) => {
        const body = Buffer.concat([integer(r), integer(s)])
        const der = Buffer.concat([Buffer.from([0x30, body.length]), body])
        expect(p1363FromDer(der, 32)).toEqual(Buffer.concat([right(r), right(s)]))
        for (const other of [der.subarray(0, -1), Buffer.concat([der, Buffer.from([0])]), der.subarray(1)]) {
          expect(() => p1363FromDer(other, 32)).toThrow(RangeError)
        }
        // Whatever is altered, it is another signature or none.
        const altered = Buffer.from(der)
        altered[where % der.length]! ^= change
        try {
          expect(p1363FromDer(altered, 32)).not.toEqual(p1363FromDer(der, 32))
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError)
        }
      }),
    )
  })
})
