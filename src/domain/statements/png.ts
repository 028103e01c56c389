import { deflateSync, inflateSync } from 'node:zlib'

/** A picture of 8 bits a sample, row by row from the top. */
export interface Picture {
  width: number
  height: number
  rgb: Uint8Array
  /** How much each pixel covers; without it all do. */
  alpha?: Uint8Array
}

const SIGNATURE = Buffer.from('89504e470d0a1a0a', 'hex')
/** Channels of each colour type, and the depths that it may have (PNG, 11.2.2). */
const COLOURS: Record<number, { channels: number; depths: number[] }> = {
  0: { channels: 1, depths: [1, 2, 4, 8, 16] },
  2: { channels: 3, depths: [8, 16] },
  3: { channels: 1, depths: [1, 2, 4, 8] },
  4: { channels: 2, depths: [8, 16] },
  6: { channels: 4, depths: [8, 16] },
}
/** First column and row, and steps, of each pass of an interlaced picture (8.2). */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const
// 30 by 15 cm at 300 dots an inch: no logo needs more, and no file of a kilobyte may ask for a gigabyte.
const MOST_PIXELS = 6_000_000

/** A picture with its bytes deflated, as a PDF has it. */
export type PackedPicture = Picture

let last: { bytes: Buffer; picture: PackedPicture } | undefined

/** A PNG as a PDF has it. The last one is kept: a clinic's statements have the same logo. @throws as decodePng */
export function packPng(bytes: Buffer): PackedPicture {
  if (last === undefined || !last.bytes.equals(bytes)) {
    const { width, height, rgb, alpha } = decodePng(bytes)
    const picture = { width, height, rgb: deflateSync(rgb), ...(alpha && { alpha: deflateSync(alpha) }) }
    last = { bytes, picture }
  }
  return last.picture
}

export const isPng = (bytes: Buffer): boolean => bytes.subarray(0, 8).equals(SIGNATURE)

/**
 * Reads a PNG of any colour type, depth and interlacing. pdfkit reads those with transparency later, where nobody can catch
 * what it throws, and some of them wrongly.
 *
 * @throws Error where the file is broken or larger than six million pixels
 */
export function decodePng(bytes: Buffer): Picture {
  const chunks = chunksOf(bytes)
  const header = chunks.get('IHDR')
  if (header?.length !== 13) throw new Error('it has no header')
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)]
  const [depth, colour, interlaced] = [header[8]!, header[9]!, header[12] === 1]
  const { channels, depths } = COLOURS[colour] ?? { channels: 0, depths: [] }
  if (!depths.includes(depth)) throw new Error('it has no colour type and depth of a PNG')
  if (width * height === 0 || width * height > MOST_PIXELS) {
    throw new Error(`it has ${width} by ${height} pixels; at most ${MOST_PIXELS} in all`)
  }
  const passes = (interlaced ? ADAM7 : [[0, 0, 1, 1] as const])
    .map(([x, y, dx, dy]) => {
      const [columns, rows] = [Math.ceil((width - x) / dx), Math.ceil((height - y) / dy)]
      return { x, y, dx, dy, columns, rows, stride: Math.ceil((columns * channels * depth) / 8) }
    })
    .filter(({ columns, rows }) => columns > 0 && rows > 0)
  const size = passes.reduce((sum, { rows, stride }) => sum + rows * (stride + 1), 0)
  const data = inflateSync(chunks.get('IDAT') ?? Buffer.alloc(0), { maxOutputLength: size })
  if (data.length !== size) throw new Error('it ends early')

  const palette = chunks.get('PLTE') ?? Buffer.alloc(0)
  const transparency = chunks.get('tRNS')
  const keyed = colour === 0 || colour === 2 ? transparency : undefined
  if (keyed !== undefined && keyed.length < 2 * channels) throw new Error('its transparency is cut off')
  const rgb = new Uint8Array(3 * width * height)
  const hasAlpha = colour >= 4 || transparency !== undefined
  const alpha = hasAlpha ? new Uint8Array(width * height).fill(255) : undefined
  const toByte = (sample: number) => (depth === 16 ? sample >> 8 : (sample * 255) / ((1 << depth) - 1))
  let start = 0
  for (const { x, y, dx, dy, columns, rows, stride } of passes) {
    unfilter(data, start, rows, stride, Math.max(1, (channels * depth) >> 3))
    for (let row = 0; row < rows; row++) {
      const from = start + row * (stride + 1) + 1
      const sample = (i: number) => {
        if (depth === 8) return data[from + i]!
        if (depth === 16) return data.readUInt16BE(from + 2 * i)
        const bit = i * depth
        return (data[from + (bit >> 3)]! >> (8 - depth - (bit & 7))) & ((1 << depth) - 1)
      }
      for (let column = 0; column < columns; column++) {
        const pixel = (y + row * dy) * width + x + column * dx
        const first = column * channels
        if (colour === 3) {
          const entry = sample(first)
          for (let c = 0; c < 3; c++) rgb[3 * pixel + c] = palette[3 * entry + c] ?? 0
          if (alpha !== undefined) alpha[pixel] = transparency?.[entry] ?? 255
          continue
        }
        const isGrey = colour === 0 || colour === 4
        for (let c = 0; c < 3; c++) rgb[3 * pixel + c] = toByte(sample(isGrey ? first : first + c))
        if (alpha === undefined) continue
        if (keyed === undefined) alpha[pixel] = toByte(sample(first + channels - 1))
        else if (isKeyed(keyed, channels, (c) => sample(first + c))) alpha[pixel] = 0
      }
    }
    start += rows * (stride + 1)
  }
  return { width, height, rgb, ...(alpha !== undefined && { alpha }) }
}

function isKeyed(keyed: Buffer, channels: number, sample: (channel: number) => number): boolean {
  for (let c = 0; c < channels; c++) if (sample(c) !== keyed.readUInt16BE(2 * c)) return false
  return true
}

/** The first chunk of each type; the data of all IDAT chunks together. */
function chunksOf(bytes: Buffer): Map<string, Buffer> {
  const chunks = new Map<string, Buffer>()
  const data: Buffer[] = []
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = bytes.readUInt32BE(at)
    const type = bytes.toString('latin1', at + 4, at + 8)
    const chunk = bytes.subarray(at + 8, at + 8 + length)
    if (type === 'IDAT') data.push(chunk)
    else if (!chunks.has(type)) chunks.set(type, chunk)
    at += 12 + length
  }
  return chunks.set('IDAT', Buffer.concat(data))
}

/** Undoes the filters of one pass, in place (9.2). */
function unfilter(data: Buffer, start: number, rows: number, stride: number, pixel: number): void {
  for (let row = 0; row < rows; row++) {
    const line = start + row * (stride + 1)
    const filter = data[line]!
    if (filter > 4) throw new Error('one of its rows has no filter of a PNG')
    if (filter === 0) continue
    for (let i = 0; i < stride; i++) {
      const at = line + 1 + i
      const left = i >= pixel ? data[at - pixel]! : 0
      const above = row > 0 ? data[at - stride - 1]! : 0
      const corner = i >= pixel && row > 0 ? data[at - stride - 1 - pixel]! : 0
      if (filter === 1) data[at]! += left
      else if (filter === 2) data[at]! += above
      else if (filter === 3) data[at]! += (left + above) >> 1
      else data[at]! += paeth(left, above, corner)
    }
  }
}

function paeth(left: number, above: number, corner: number): number {
  const estimate = left + above - corner
  const a = Math.abs(estimate - left)
  const b = Math.abs(estimate - above)
  const c = Math.abs(estimate - corner)
  if (a <= b && a <= c) return left
  return b <= c ? above : corner
}
