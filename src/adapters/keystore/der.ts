/**
 * An ECDSA signature as JOSE wants it (IEEE P1363: r‖s, each `size` bytes) from its DER form, a sequence of two
 * integers (RFC 3279 section 2.2.3).
 *
 * @throws RangeError when it is not the one DER form of two positive integers that fit.
 */
export function p1363FromDer(der: Uint8Array, size: number): Uint8Array {
  const bytes = Buffer.from(der)
  // Both integers of curves up to 384 bits fit into a sequence of short length.
  if (bytes[0] !== 0x30 || bytes[1] !== bytes.length - 2 || bytes.length > 129) throw malformed()
  const signature = Buffer.alloc(2 * size)
  let at = 2
  for (const end of [size, 2 * size]) {
    const length = bytes[at + 1] ?? 0
    const integer = bytes.subarray(at + 2, at + 2 + length)
    const [first = 0x80, second = 0] = integer
    const padded = first === 0 && length > 1
    if (bytes[at] !== 0x02 || integer.length !== length || first >= 0x80 || (padded && second < 0x80)) {
      throw malformed()
    }
    const magnitude = padded ? integer.subarray(1) : integer
    if (magnitude.length > size) throw malformed()
    magnitude.copy(signature, end - magnitude.length)
    at += 2 + length
  }
  if (at !== bytes.length) throw malformed()
  return signature
}

const malformed = () => new RangeError('not an ECDSA signature in DER')
