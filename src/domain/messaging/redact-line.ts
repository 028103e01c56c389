import { openPatternScanner, type Scanner } from '../erasure/scanner.ts'
import { MASK } from '../inbox/redact.ts'

/**
 * A line of our own log without what looks like a phone number, an address or an e-Tazkira's number. Where one is encoded,
 * nothing of the line is kept but level and time.
 */
export function redactLine(line: string): string {
  scanner ??= openPatternScanner()
  if (scanner.scan(line).length === 0) return line
  const masked = line.replace(ADDRESS, MASK).replace(NUMBER, MASK)
  if (scanner.scan(masked).length === 0) return masked
  const [, level = '30'] = /"level":(\d+)/.exec(line) ?? []
  const [, time = String(Date.now())] = /"time":(\d{13})/.exec(line) ?? []
  return `{"level":${level},"time":${time},"msg":"a line that held patient data in an encoding was left out"}\n`
}
// Its tables are made once, at the first line.
let scanner: Scanner | undefined

const ADDRESS = /[\p{L}\p{N}._%+-]+[@\uff20][\p{L}\p{N}.-]+/gu
// Digits of any script with what stands between them; the time of a line is a number by itself and stays.
const NUMBER =
  /(?<!"time":)(?<![\p{L}\p{N}])\+?\p{Nd}(?:[\p{Z}\p{Pd}\p{Cf}\p{Mn}()./_·]*\p{Nd}){8,17}(?![\p{L}\p{N}])/gu
