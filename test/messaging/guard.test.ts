import { randomUUID } from 'node:crypto'
import { appendFile, rename, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { beforeAll, describe, expect, test } from 'vitest'
import { ENCODINGS, WRITINGS } from '../../src/domain/erasure/writings.ts'
import { dispatchMessage } from '../../src/domain/messaging/dispatch.ts'
import { GuardedPayload } from '../../src/domain/messaging/guarded-payload.ts'
import { openPatientDataFinder } from '../../src/domain/messaging/patient-data.ts'
import { parseTemplate, publishTemplate } from '../../src/domain/messaging/publish.ts'
import { redactLine } from '../../src/domain/messaging/redact-line.ts'
import { openLeaks, watchPatientData } from '../../src/domain/messaging/watch.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import type { MessagingProviders } from '../../src/sandbox/simulators/messaging.ts'
import { runJson } from '../support/line.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()
const tabib = (argv: string[]) => runJson(argv, world().env)
let providers: MessagingProviders
const PATIENT = {
  name: 'Zarghuna Ahmadzai',
  phone: '+93700123456',
  email: 'zarghuna@mail.example',
  nationalId: '1400-0101-12345',
}
const WHEN = '2026-12-01T09:00:00+04:30'

beforeAll(async () => {
  providers = await world().messagingProviders()
  for (const [id, channel, category] of [
    ['reminder', 'sms', 'reminders'],
    ['nudge', 'push', 'nudges'],
    ['summary', 'email', 'summaries'],
  ] as const) {
    const template = {
      id,
      channel,
      category,
      subject: 'Clinic',
      body: 'Come at {at}.',
      variables: { at: 'time' },
    } as const
    await publishTemplate(world(), template, 'test')
    await publishTemplate(world(), { ...template, body: 'Please come at {at}.' }, 'test')
  }
})

/** A tenant with one patient. */
async function somebody() {
  const tenantId = await world().tenant()
  const patientId = randomUUID()
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(
      `insert into virtual_care.patient (tenant_id, id, name, language, phone, email, national_id, born_on)
       values ($1, $2, $3, 'ps-AF', $4, $5, $6, '1987-03-21')`,
      [tenantId, patientId, PATIENT.name, PATIENT.phone, PATIENT.email, PATIENT.nationalId],
    ),
  )
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(
      `insert into communication.contact (tenant_id, person_id, push_token) values ($1, $2, 'device')`,
      [tenantId, patientId],
    ),
  )
  const [{ slug }] = (await world().db.query<{ slug: string }>(
    'select slug from tabib.tenant where id = $1',
    [tenantId],
  )) as [{ slug: string }]
  return {
    tenantId,
    patientId,
    slug,
    send: (
      id: string,
      variables: Record<string, unknown>,
      version = 2,
      attemptId: string = randomUUID(),
      recipient?: string,
    ) =>
      dispatchMessage(world().app, {
        ...{ tenantId, patientId, attemptId, variables, recipient },
        template: { id, version },
      }).then(
        () => 'sent',
        (error: { code: string; message: string }) => {
          expect(error.message).not.toMatch(/Zarghuna|700123456/)
          return error.code
        },
      ),
  }
}

/** One pass of the worker. */
const scan = (...logs: string[]) => watchPatientData(world().app, { logs })

const arrivals = () => providers.arrived.length

describe('what is sent', () => {
  test('goes out by each channel as its template says, and is recorded without its text', async () => {
    const { send, tenantId } = await somebody()
    const before = arrivals()
    for (const id of ['reminder', 'nudge', 'summary']) expect(await send(id, { at: WHEN })).toBe('sent')
    expect(providers.arrived.slice(before)).toEqual([
      { channel: 'sms', to: PATIENT.phone, subject: '', body: 'Please come at 1 Dec 2026, 09:00.' },
      { channel: 'push', to: 'device', subject: 'Clinic', body: 'Please come at 1 Dec 2026, 09:00.' },
      { channel: 'email', to: PATIENT.email, subject: 'Clinic', body: 'Please come at 1 Dec 2026, 09:00.' },
    ])
    const log = await world().db.query(
      'select request from communication.dispatch_log where tenant_id = $1',
      [tenantId],
    )
    expect(log.map(({ request }) => request)).toContainEqual({ template: 'reminder', version: 2 })
    expect(await scan()).toMatchObject({ leaking: 0 })
  })

  test('goes out once for one attempt, and an error says nothing of whom and what', async () => {
    const { send } = await somebody()
    const before = arrivals()
    const attempt = randomUUID()
    providers.answer(503)
    expect(await send('reminder', { at: WHEN }, 2, attempt)).toBe('PROVIDER_UNREACHABLE')
    providers.answer(200)
    expect(await send('reminder', { at: WHEN }, 2, attempt)).toBe('sent')
    expect(await send('reminder', { at: WHEN }, 2, attempt)).toBe('sent')
    expect(arrivals()).toBe(before + 1)
  })

  test('is the guard’s own payload or nothing: no look-alike, no copy, no stale one', async () => {
    const { tenantId, patientId } = await somebody()
    const draft = { tenantId, patientId, attemptId: randomUUID(), variables: { at: WHEN } }
    const payload = await GuardedPayload.check(world().app, {
      ...draft,
      template: { id: 'reminder', version: 2 },
    })
    const { sms } = world().app.channels(tenantId)
    const before = arrivals()
    const content = GuardedPayload.contentOf(payload)
    for (const forged of [
      { ...payload },
      { ...content, body: 'free text' },
      Object.create(GuardedPayload.prototype),
      Object.setPrototypeOf({ ...content }, GuardedPayload.prototype),
      structuredClone(payload),
      null,
      'text',
    ]) {
      await expect(sms!.send(forged as never, { key: randomUUID() })).rejects.toMatchObject({
        code: 'PATIENT_DATA_REFUSED',
      })
    }
    expect(() => Reflect.construct(GuardedPayload, [Symbol('checked'), content])).toThrow(
      'by the check alone',
    )
    expect(() => Object.assign(content, { body: 'free text' })).toThrow(TypeError)
    expect(arrivals()).toBe(before)
  })
})

describe('what is refused', () => {
  test('a variable that the template does not have, one of another type, one too few: without a halt', async () => {
    const { send } = await somebody()
    expect(await send('reminder', { at: 'soon' })).toBe('MESSAGE_INVALID')
    expect(await send('reminder', {})).toBe('MESSAGE_INVALID')
    expect(await send('reminder', { at: WHEN, note: 'bring water' })).toBe('MESSAGE_INVALID')
    expect(await send('reminder', { at: WHEN, constructor: 'x' })).toBe('MESSAGE_INVALID')
    expect(await send('reminder', { at: WHEN }, 9)).toBe('TEMPLATE_NOT_FOUND')
    expect(await send('reminder', { at: WHEN })).toBe('sent')
  })

  test.each(Object.entries(PATIENT))('the patient’s %s', async (_, value) => {
    const { send, tenantId } = await somebody()
    const before = arrivals()
    expect(await send('nudge', { at: Buffer.from(value).toString('base64') })).toBe('PATIENT_DATA_REFUSED')
    expect(arrivals()).toBe(before)
    const [row] = await world().db.query(
      'select evidence, place from communication.phi_finding where tenant_id = $1',
      [tenantId],
    )
    expect(row).toMatchObject({ evidence: { at: expect.any(Array) } })
    expect(JSON.stringify(row)).not.toContain(value)
  })

  test('a part of the patient’s name, a name of a variable, whatever shape it has', async () => {
    for (const variables of [
      { at: 'Zarghuna' },
      { at: 'احمدزی' },
      { at: { nested: [PATIENT.phone] } },
      { at: WHEN, [PATIENT.phone]: 1 },
      { at: 93700123456n },
      { at: [7, 0, 0, 1, 2, 3, 4, 5, 6].map((n) => 48 + n) },
      { at: '1987-03-21T09:00:00+04:30' },
    ]) {
      const { send } = await somebody()
      const seen = await send('nudge', variables)
      expect(seen, Object.keys(variables).join()).toBe(
        variables.at === 'احمدزی' ? 'MESSAGE_INVALID' : 'PATIENT_DATA_REFUSED',
      )
    }
    const { kindsIn } = openPatientDataFinder(
      [{ id: 'p', ...PATIENT, name: 'Omid Noori' }],
      'With omid, come.',
    )
    expect(kindsIn('With omid, come.')).toEqual([])
    expect(kindsIn('Dear Noori')).toEqual(['name'])
  })

  test('another’s number as the recipient, or a patient whom the channel does not reach', async () => {
    const { send, tenantId, patientId } = await somebody()
    const before = arrivals()
    const to = (recipient: string, id = 'reminder') => send(id, { at: WHEN }, 2, randomUUID(), recipient)
    expect(await to('+93799888777')).toBe('RECIPIENT_UNKNOWN')
    expect(await to('other@mail.example', 'summary')).toBe('RECIPIENT_UNKNOWN')
    expect(await to('another device', 'nudge')).toBe('RECIPIENT_UNKNOWN')
    expect(await to('0700 123 456')).toBe('sent')
    expect(await to(PATIENT.email.toUpperCase(), 'summary')).toBe('sent')
    await asTenant(world().service, tenantId, (tx) =>
      tx.query('update virtual_care.patient set phone = null where id = $1', [patientId]),
    )
    expect(await send('reminder', { at: WHEN })).toBe('RECIPIENT_UNKNOWN')
    expect(providers.arrived.slice(before).map(({ to }) => to)).toEqual([PATIENT.phone, PATIENT.email])
  })

  test('the patient’s number over several variables, in any order; a link that leads to anybody else', async () => {
    const variables = { one: 'code', two: 'count', three: 'count', at: 'time', see: 'link' } as const
    const template = { id: 'cut', channel: 'sms', category: 'cuts', subject: null, variables } as const
    const body = 'At {at}: {three}, {one}, {two}. {see}'
    const { version } = await publishTemplate(world(), { ...template, body }, 'test')
    const see = 'https://clinic.example/v/A1b2C3d4E5f6G7h8'
    const sent = async (given: object) => {
      const { send } = await somebody()
      return send('cut', { at: WHEN, see, one: '4827', two: 1, three: 2, ...given }, version)
    }
    expect(await sent({})).toBe('sent')
    for (const given of [
      { one: '0700', two: 123, three: 456 },
      { one: '99700123', two: 456 },
      { one: '93700', two: 123, three: 456 },
      { one: '123456', two: 700 },
    ])
      expect(await sent(given), JSON.stringify(given)).toBe('PATIENT_DATA_REFUSED')
    expect(await sent({ one: '4700', two: 123, three: 457 })).toBe('sent')
    for (const host of ['evil.example', 'clinic.example.evil.example', 'xclinic.example'])
      expect(await sent({ see: see.replace('clinic.example', host) }), host).toBe('MESSAGE_INVALID')
    expect(() =>
      parseTemplate(
        JSON.stringify({
          id: 'x-y',
          channel: 'sms',
          category: 'cuts',
          ...Object.fromEntries([['body', 'abcdefghijklm'.replace(/./g, '{$&}')]]),
          variables: Object.fromEntries([...'abcdefghijklm'].map((name) => [name, 'count'])),
        }),
      ),
    ).toThrow('twelve')
  })

  test('most of the patient’s phone number, as a code, an amount or in an id', () => {
    const { holdsPartOfPhone } = openPatientDataFinder([{ id: 'p', ...PATIENT }])
    for (const value of ['00123456', '700123456 AFN', '۰۱۲۳۴۵۶', '00000000-0000-4000-8000-000700123456'])
      expect(holdsPartOfPhone(value), value).toBe(true)
    for (const value of ['123456', '700123457 AFN', '00123457', WHEN])
      expect(holdsPartOfPhone(value), value).toBe(false)
  })

  test('a date of birth in either calendar, an address, a name glued to other signs, signs that look alike', () => {
    const { kindsIn } = openPatientDataFinder(
      [{ id: 'p', ...PATIENT, bornOn: '1987-03-21', address: 'Karte Seh, House 12, Kabul' }],
      'Our clinic is in Karte Seh.',
    )
    const dates = ['1987-03-21', '21/3/1987', '03.21.1987', '19870321', '21 March 1987', 'Mar 21, 1987']
    const solar = ['1366/01/01', '۱۳۶۶/۱/۱', '13660101', '۱ حمل ۱۳۶۶', '1 فروردین 1366']
    const anHour = [
      '2026-03-21T09:00',
      '21 Mar 2026, 09:00',
      '1987-03-22',
      '1366/01/02',
      '۲ حمل ۱۳۶۶',
      '119870321',
    ]
    for (const date of [...dates, ...solar]) expect(kindsIn(`on ${date}.`), date).toEqual(['date of birth'])
    for (const other of anHour) expect(kindsIn(`on ${other}.`), other).toEqual([])
    for (const place of ['karte seh house 12 kabul', 'KARTE-SEH/HOUSE-12/KABUL'])
      expect(kindsIn(place), place).toEqual(['address'])
    expect(kindsIn('Our clinic is in Karte Seh, House 3.')).toEqual([])
    const token = `${PATIENT.name.toLowerCase().replace(' ', '')}42x`
    expect(kindsIn(`https://clinic.example/v/${token}`)).toEqual(['name'])
    expect(kindsIn(PATIENT.name.replaceAll('a', '\u0430'))).toEqual(['name'])
    expect(kindsIn('call O7OO l23 456')).toEqual(['phone'])
    for (const written of ['زرغونه احمدزی', 'احمدزۍ، زرغونه', 'Zarghoona Ahmad-Zai', 'ZARGHUNEH AHMADZAY'])
      expect(kindsIn(`dear ${written}`), written).toEqual(['name'])
    expect(kindsIn('dear زرغونه کریمی')).toEqual([])
    // Of somebody who was born of late it is the day when they come.
    const young = openPatientDataFinder([
      { id: 'p', ...PATIENT, bornOn: new Date().toISOString().slice(0, 10) },
    ])
    expect(young.kindsIn(`come at ${new Date().toISOString()}`)).toEqual([])
  })

  test('each of them in any writing and encoding', () => {
    const { kindsIn } = openPatientDataFinder([{ id: 'p', ...PATIENT }])
    const kinds = { name: 'name', phone: 'phone', email: 'e-mail', nationalId: 'national-id' } as const
    const missed = Object.entries(PATIENT).flatMap(([field, value]) =>
      WRITINGS.flatMap((writing) =>
        ENCODINGS.filter(({ name }) => name !== 'UTF-16').flatMap((encoding) => {
          const kind = kinds[field as keyof typeof kinds]
          const written = writing.write({ kind, value })
          const text = written === undefined ? undefined : JSON.stringify([String(encoding.encode(written))])
          return text === undefined || kindsIn(text).includes(kind)
            ? []
            : [`${kind} ${writing.name} ${encoding.name}`]
        }),
      ),
    )
    expect(missed).toEqual([])
  })

  test('anybody’s number, an address, a diagnosis, a clinical word; and then the whole category, for that tenant alone', async () => {
    for (const leak of ['0799 888 777', 'somebody@mail.example', 'F32.1', 'HIV', 'تشخیص سرطان']) {
      const { send } = await somebody()
      expect(await send('reminder', { at: leak }), leak).toBe('PATIENT_DATA_REFUSED')
      expect(await send('reminder', { at: WHEN }), leak).toBe('CATEGORY_HALTED')
      expect(await send('nudge', { at: WHEN }), leak).toBe('sent')
    }
    const other = await somebody()
    expect(await other.send('reminder', { at: WHEN })).toBe('sent')
  })

  test('a template that says too much is not published', () => {
    const template = (body: string) =>
      JSON.stringify({ id: 'x-y', channel: 'sms', category: 'results', body })
    for (const body of ['Call 0700123456', 'Your HIV test', 'Hello {name}', 'Diagnosis F32.1']) {
      expect(() => parseTemplate(template(body))).toThrowError(
        expect.objectContaining({ code: 'MESSAGE_INVALID' }),
      )
    }
    expect(parseTemplate(template('Please open the app.'))).toMatchObject({ id: 'x-y' })
  })
})

describe('what got out', () => {
  const leak = async (tenantId: string, patientId: string, request: object, response = 'ok') =>
    asTenant(world().service, tenantId, (tx) =>
      tx.query(
        `insert into communication.dispatch_log (tenant_id, patient_id, channel, provider, recipient, request, response, template, template_version)
         values ($1, $2, 'email', 'smtp', $3, $4, $5, 'summary', 2)`,
        [tenantId, patientId, PATIENT.email, JSON.stringify(request), response],
      ),
    )

  test('is found in the dispatch log in an encoding, halted, told without the data, its version retired; then resumed', async () => {
    const { send, tenantId, patientId, slug } = await somebody()
    await leak(tenantId, patientId, { to: PATIENT.email, template: 'summary' }, `queued for ${PATIENT.email}`)
    await leak(tenantId, patientId, { messages: [{ to: PATIENT.email.toUpperCase(), id: 7 }] })
    expect(await scan()).toMatchObject({ leaking: 0 })
    await leak(tenantId, patientId, { to: PATIENT.phone })
    expect(await openLeaks(world())).toMatchObject({ attempts: 1 })
    await world().db.query(
      'update communication.dispatch_log set scanned_at = now() where scanned_at is null',
    )
    await leak(tenantId, patientId, { data: Buffer.from(`dear ${PATIENT.name}`).toString('base64') })
    expect((await tabib(['status', 'communication/C11'])).exitCode).toBe(1)
    const { envelope } = await tabib(['messaging', 'scan'])
    expect(envelope).toMatchObject({
      result: {
        leaking: 1,
        findings: expect.any(Number),
        rotated: [{ template: 'summary', retired: 2, current: 1 }],
      },
    })
    expect(await scan()).toMatchObject({ leaking: 0, incidents: 0, rotated: [] })
    expect(await openLeaks(world())).toMatchObject({ findings: 0, attempts: 0 })
    expect(await send('summary', { at: WHEN }, 1)).toBe('CATEGORY_HALTED')
    const incidents = await world().db.query(
      `select title, detail from tabib.incident where mode = 'communication/C11'`,
    )
    expect(JSON.stringify(incidents)).not.toMatch(/Zarghuna|700123456|zarghuna/)

    const resume = ['messaging', 'resume', 'summaries', '--tenant', slug]
    expect((await tabib(resume)).envelope).toMatchObject({ error: { code: 'CONFIRMATION_REQUIRED' } })
    expect(await tabib([...resume, '--confirm', `${slug}/summaries`, '--reason', 'mended'])).toMatchObject({
      exitCode: 0,
    })
    expect(await send('summary', { at: WHEN }, 2)).toBe('TEMPLATE_NOT_FOUND')
    expect(await send('summary', { at: WHEN }, 1)).toBe('sent')
    expect((await tabib(resume)).envelope).toMatchObject({ error: { code: 'NOT_NEEDED' } })
  })

  test('stays halted while its template has no version in use', async () => {
    const { slug, send } = await somebody()
    await publishTemplate(
      world(),
      { id: 'only', channel: 'email', category: 'onlies', subject: null, body: 'Come.', variables: {} },
      'test',
    )
    expect(await send('only', { extra: PATIENT.phone }, 1)).toBe('PATIENT_DATA_REFUSED')
    await scan()
    const resume = [
      'messaging',
      'resume',
      'onlies',
      '--tenant',
      slug,
      '--confirm',
      `${slug}/onlies`,
      '--reason',
      'x',
    ]
    expect((await tabib(resume)).envelope).toMatchObject({ error: { code: 'PATIENT_DATA_REFUSED' } })
    const file = join(tmpdir(), `tabib-template-${randomUUID()}.yaml`)
    await writeFile(file, 'id: only\nchannel: email\ncategory: onlies\nbody: Please come.\n')
    expect((await tabib(['messaging', 'publish', file, '--yes'])).envelope).toMatchObject({
      result: { version: 2 },
    })
    expect((await tabib(resume)).exitCode).toBe(0)
  })

  test('is found in log files, each line once, through a rotation', async () => {
    const { tenantId, patientId, slug } = await somebody()
    const file = join(tmpdir(), `tabib-log-${randomUUID()}.log`)
    const line = (msg: string) =>
      `${JSON.stringify({ level: 30, tenantId, patientId, category: 'alerts', msg })}\n`
    await writeFile(file, line('dispatched 42') + line(`to ${encodeURIComponent(PATIENT.name)}`))
    expect((await tabib(['messaging', 'scan', '--log', file])).envelope).toMatchObject({
      result: { lines: 2, leaking: 1 },
    })
    await appendFile(file, line('fine') + line('unfinished').trim())
    expect(await scan(file)).toMatchObject({ lines: 1, leaking: 0 })
    await rename(file, `${file}.1`)
    await writeFile(file, `called ${PATIENT.phone}\n`)
    expect(await scan(file)).toMatchObject({ lines: 1, leaking: 1 })
    const { envelope } = await tabib(['messaging', 'status'])
    expect(envelope).toMatchObject({
      result: {
        halted: expect.arrayContaining([
          expect.objectContaining({ tenant: slug, category: 'alerts', findings: 1 }),
        ]),
      },
    })
  })
})

describe('our own log', () => {
  test('masks what looks like a patient’s, and leaves out a line where it is encoded', () => {
    const line = (msg: string) =>
      redactLine(`{"level":40,"time":1796030098272,"msg":${JSON.stringify(msg)}}\n`)
    expect(line('sent to +93 700 123 456 and a.b@mail.example')).toBe(
      '{"level":40,"time":1796030098272,"msg":"sent to *** and ***"}\n',
    )
    expect(line('۰۷۰۰۱۲۳۴۵۶')).not.toContain('۷۰۰')
    expect(line(Buffer.from('tel 0700123456').toString('base64'))).toContain('was left out')
    const usual = `{"level":30,"time":1796030098272,"id":"${randomUUID()}","ms":700123456,"lag":0.712345678,"url":"127.0.0.1:54321"}\n`
    expect(redactLine(usual)).toBe(usual)
  })

  test('is written through it', async () => {
    const { stderr } = await execa(process.execPath, [
      '--import',
      'tsx',
      'test/fixture/log-line.ts',
      'to 0700123456',
    ])
    expect(JSON.parse(stderr)).toMatchObject({ level: 40, msg: 'to ***', nested: { to: '***' } })
  })
})
