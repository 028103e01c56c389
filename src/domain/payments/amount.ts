import { TabibError } from '../../errors.ts'

const MOST = 2n ** 63n - 1n

/**
 * An amount in minor units as JSON carries it: an integer, or its digits in a string. A number beyond 2^53, which
 * parsers round, is refused rather than guessed.
 *
 * @throws TabibError AMOUNT_INVALID for what is negative, zero, a fraction, or more than a bigint holds.
 */
export function parseAmount(value: number | string): bigint {
  const refuse = (why: string) =>
    new TabibError('AMOUNT_INVALID', `amountMinor ${JSON.stringify(value)} ${why}`)
  if (typeof value === 'number' && !Number.isInteger(value)) {
    throw refuse('is a fraction: amounts are whole minor units')
  }
  if (typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER) {
    throw refuse('is beyond what a JSON number holds exactly: write it as a string')
  }
  if (typeof value === 'string' && !/^-?\d{1,40}$/.test(value)) {
    throw refuse('is no whole number of minor units')
  }
  const amount = BigInt(value)
  if (amount <= 0n) throw refuse('is not above zero')
  if (amount > MOST) throw refuse(`is beyond ${MOST}`)
  return amount
}
