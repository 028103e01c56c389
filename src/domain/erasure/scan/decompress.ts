import { brotliDecompressSync, constants, inflateRawSync, unzipSync } from 'node:zlib'
import { type Decoded, plainArray } from './decode.ts'

/**
 * What gzip (RFC 1952), zlib (RFC 1950) or ZIP (of a file that begins here) compressed, once or several times, as far as it goes
 * and whatever follows; undefined when the bytes are neither. `onCut` is told when there would be more than the limit, of which
 * nothing is returned, or the bytes end before it does.
 */
export function decompress(
  bytes: Uint8Array,
  limit: number,
  onCut: () => void,
  times = 3,
): Uint8Array | undefined {
  const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b && bytes[2] === 8
  const isZlib = bytes[0] === 0x78 && ((bytes[0]! << 8) | bytes[1]!) % 31 === 0
  const zipped = isGzip || isZlib ? 0 : zipDataAt(bytes)
  if (!isGzip && !isZlib && zipped === 0) return undefined
  // A header with a file's name has no fixed length.
  const isNamed = isGzip && bytes[3] !== 0
  const data = isNamed ? bytes : bytes.subarray(isGzip ? 10 : zipped || 2)
  const options = { maxOutputLength: limit, finishFlush: constants.Z_SYNC_FLUSH, info: true }
  try {
    const { buffer, engine } = (isNamed ? unzipSync : inflateRawSync)(data, options) as unknown as {
      buffer: Buffer
      engine: { bytesWritten: number }
    }
    if (engine.bytesWritten >= data.length && buffer.length >= SHORTEST_CUT) onCut()
    const plain = plainArray(buffer)
    return (times > 1 ? decompress(plain, limit, onCut, times - 1) : undefined) ?? plain
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') onCut()
    return undefined
  }
}

/** Where the deflated data of a file in a ZIP begin (APPNOTE 4.3.7), whose head is at 0; 0 where none is. */
function zipDataAt(bytes: Uint8Array): number {
  const isHead = bytes[0] === 0x50 && bytes[1] === 0x4b && bytes[2] === 3 && bytes[3] === 4 && bytes[8] === 8
  return isHead && bytes.length > 30
    ? 30 + (bytes[26]! | (bytes[27]! << 8)) + (bytes[28]! | (bytes[29]! << 8))
    : 0
}

/** Bytes beyond which what comes out is no chance of random data that begins like zlib's. */
const SHORTEST_CUT = 256

/**
 * What is compressed without a head of its own, deflate (RFC 1951) or brotli (RFC 7932). What can be neither, by its first
 * bits, is not tried: a failure costs a hundred times what it takes to look. Undefined when it is none.
 */
export function decompressBare(bytes: Uint8Array, limit: number): Uint8Array | undefined {
  try {
    if (mayBeBrotli(bytes)) return plainArray(brotliDecompressSync(bytes, { maxOutputLength: limit }))
    if (mayBeDeflate(bytes))
      return plainArray(
        inflateRawSync(bytes, { maxOutputLength: limit, finishFlush: constants.Z_SYNC_FLUSH }),
      )
  } catch {
    // Its beginning was chance.
  }
  return undefined
}

/** Whether bytes begin as something compressed may. */
export const mayBeCompressed = ({ bytes }: Decoded): boolean =>
  bytes[0] === 0x1f || bytes[0] === 0x78 || bytes[0] === 0x50 || mayBeBare(bytes[0]!)

/** By the first byte. */
export const mayBeBare = (first: number): boolean => first === 0x1b || (first & 7) === 3 || (first & 7) === 5

/** A window of 4 MiB and one last block, whose length the bytes that are there may hold. */
function mayBeBrotli(bytes: Uint8Array): boolean {
  if (bytes.length < 12 || bytes[0] !== 0x1b) return false
  const length = (bytes[1]! | (bytes[2]! << 8)) + 1
  return length > bytes.length / 2 && length < bytes.length * 40
}

/** One block, with the fixed Huffman codes and then five letters of ASCII, or with codes of its own that are complete. */
function mayBeDeflate(bytes: Uint8Array): boolean {
  if (bytes.length < 10 || isAscii(bytes)) return false
  // The last block, as it is the only one.
  const kind = bytes[0]! & 7
  if (kind === 5) {
    if (bitsAt(bytes, 3, 5) > 29 || bitsAt(bytes, 8, 5) > 29) return false
    const lengths = bitsAt(bytes, 13, 4) + 4
    if (bytes.length < 3 + lengths / 2) return false
    let filled = 0
    for (let n = 0; n < lengths; n++) {
      const length = bitsAt(bytes, 17 + 3 * n, 3)
      if (length > 0) filled += 128 >> length
    }
    return filled === 128
  }
  if (kind !== 3) return false
  for (let letter = 0; letter < 5; letter++) {
    let code = 0
    for (let bit = 3 + 8 * letter; bit < 11 + 8 * letter; bit++) code = (code << 1) | bitsAt(bytes, bit, 1)
    if (code < 0x30 + 0x20 || code > 0x30 + 0x7e) return false
  }
  return true
}

/** Up to nine bits from a bit on, the lowest first. */
function bitsAt(bytes: Uint8Array, at: number, count: number): number {
  const word = bytes[at >> 3]! | (bytes[(at >> 3) + 1]! << 8)
  return (word >> (at & 7)) & ((1 << count) - 1)
}

function isAscii(bytes: Uint8Array): boolean {
  for (let at = 0; at < 8; at++) if (bytes[at]! < 0x20 || bytes[at]! > 0x7e) return false
  return true
}
