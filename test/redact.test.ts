import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MASK, redact } from '../src/domain/inbox/redact.ts'

describe('what is shown of a payload', () => {
  test('is its ids, states, amounts and system times', () => {
    const shown = {
      specversion: '1.0',
      id: '01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90',
      type: 'virtual-care.session.ended',
      source: '/virtual-care',
      sequence: '123456789',
      patientId: '01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90',
      appointment_id: 'A-17',
      status: 'ended',
      currency: 'AFN',
      amountMinor: '50000',
      attempts: 5,
      endedAt: '2026-11-22T05:00:00.123Z',
      note: null,
    }
    expect(redact(shown)).toEqual(shown)
  })

  test.each([
    ['name', 'فرشته احمدی'],
    ['patientName', 'Farida'],
    ['phone', '+93791234567'],
    ['phone_id', 'p-1'],
    ['contactId', '+93791234567'],
    ['patientId', '0791234567'],
    ['patientId', 791234567],
    ['nationalId', '1400-0101-12345'],
    ['tazkira_id', '1'],
    ['userId', 'farida@example.af'],
    ['status', 'was told that she is HIV positive'],
    ['hivStatus', 'positive'],
    ['bloodType', 'AB'],
    ['diagnosisCode', 'F32.1'],
    ['birthAt', '1990-01-01T00:00:00Z'],
    ['startedAt', 'when Farida called'],
    ['note', 'free text'],
    ['heartRate', 140],
    ['pregnant', true],
    ['unknown', 1],
  ])('is not %s: %j', (key, value) => {
    expect(redact({ [key]: value })).toEqual({ [key]: MASK })
  })

  test('is no name that is itself a value', () => {
    expect(redact({ 'Farida Ahmadi': { id: '1' } })).toEqual({ [MASK]: { id: '1' } })
  })

  test('keeps the shape of lists and objects', () => {
    expect(redact({ items: [{ kind: 'RX', name: 'x' }, 'x', 1, null] })).toEqual({
      items: [{ kind: 'RX', name: MASK }, MASK, MASK, null],
    })
    expect(redact('text')).toBe(MASK)
  })

  test('hides codes, which may be a diagnosis, and all that lies below what is personal', () => {
    expect(
      redact({ coding: [{ code: 'B20' }], name: { id: 'x', status: 'positive' }, status: 'ended' }),
    ).toEqual({
      coding: [{ code: MASK }],
      name: MASK,
      status: 'ended',
    })
  })

  test('survives any nesting', () => {
    const nested = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)
    expect(JSON.stringify(redact(nested)).length).toBeLessThan(200)
  })

  test('never holds text with a space, a sign of an address or a letter that is not ASCII', () => {
    const holdsOnlyWords = (value: unknown): boolean => {
      if (typeof value === 'string') return value === MASK || /^[\w.:/-]+$/.test(value.replaceAll('+', '-'))
      if (typeof value !== 'object' || value === null) return true
      return Object.entries(value).every(
        ([key, inner]) => holdsOnlyWords(key.replaceAll('$', '_')) && holdsOnlyWords(inner),
      )
    }
    fc.assert(
      fc.property(fc.jsonValue(), (value) =>
        holdsOnlyWords(Array.isArray(value) ? [redact(value)] : redact(value)),
      ),
    )
  })
})
