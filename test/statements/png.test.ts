import { crc32, deflateSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { decodePng } from '../../src/domain/statements/png.ts'
import { pdfOf, statement, textOf } from './support.ts'

const [WIDTH, HEIGHT] = [11, 9]
const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }
const PASSES = [
  [[0, 0, 1, 1]],
  [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
  ],
] as [number, number, number, number][][]
const PALETTE = Buffer.from(Array.from({ length: 48 }, (_, i) => (i * 37) & 255))

const samplesOf = (colour: number, depth: number, x: number, y: number): number[] =>
  Array.from({ length: CHANNELS[colour]! }, (_, c) =>
    colour === 3 ? (x + 3 * y) % Math.min(16, 1 << depth) : (x * 7919 + y * 104_729 + c * 31) % (1 << depth),
  )

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type), data])
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)]
  length.writeUInt32BE(data.length)
  sum.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, sum])
}

/** A PNG whose rows go through all five filters. */
function pngOf(colour: number, depth: number, interlace: 0 | 1, more: Buffer[] = [], size = [WIDTH, HEIGHT]) {
  const bits = CHANNELS[colour]! * depth
  const back = Math.max(1, bits >> 3)
  const rows: Uint8Array[] = []
  for (const [x0, y0, dx, dy] of PASSES[interlace]!) {
    const columns = Math.ceil((WIDTH - x0) / dx)
    let before = Buffer.alloc(Math.ceil((columns * bits) / 8))
    for (let y = y0; y < HEIGHT && columns > 0; y += dy) {
      const row = Buffer.alloc(before.length)
      for (let i = 0; i < columns; i++) {
        samplesOf(colour, depth, x0 + i * dx, y).forEach((sample, c) => {
          const bit = i * bits + c * depth
          if (depth === 16) row.writeUInt16BE(sample, bit >> 3)
          else row[bit >> 3]! |= sample << (8 - depth - (bit & 7))
        })
      }
      const filter = rows.length % 5
      const filtered = row.map((byte, i) => {
        const [left, above, corner] = [row[i - back] ?? 0, before[i]!, before[i - back] ?? 0]
        const [a, b, c] = [above - corner, left - corner, left + above - 2 * corner].map(Math.abs) as [
          number,
          number,
          number,
        ]
        const paeth = a <= b && a <= c ? left : b <= c ? above : corner
        return byte - [0, left, above, (left + above) >> 1, paeth][filter]!
      })
      rows.push(Buffer.from([filter]), filtered)
      before = row
    }
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(size[0]!, 0)
  header.writeUInt32BE(size[1]!, 4)
  header.set([depth, colour, 0, 0, interlace], 8)
  const data = chunk('IDAT', deflateSync(Buffer.concat(rows)))
  return Buffer.concat([
    Buffer.from('89504e470d0a1a0a', 'hex'),
    chunk('IHDR', header),
    ...more,
    data,
    chunk('IEND', Buffer.alloc(0)),
  ])
}

const TYPES = [0, 2, 3, 4, 6].flatMap((colour) =>
  (colour === 0 ? [1, 2, 4, 8, 16] : colour === 3 ? [1, 2, 4, 8] : [8, 16]).map(
    (depth) => [colour, depth] as const,
  ),
)

test('a PNG of any colour type and depth is read, interlaced or not', () => {
  for (const [colour, depth] of TYPES) {
    for (const interlace of [0, 1] as const) {
      const { rgb, alpha } = decodePng(pngOf(colour, depth, interlace, [chunk('PLTE', PALETTE)]))
      const seen: number[] = []
      const expected: number[] = []
      for (let y = 0; y < HEIGHT; y++) {
        for (let x = 0; x < WIDTH; x++) {
          const samples = samplesOf(colour, depth, x, y)
          const bytes = samples.map((one) =>
            depth === 16 ? one >> 8 : Math.floor((one * 255) / ((1 << depth) - 1)),
          )
          const entry = PALETTE.subarray(3 * samples[0]!, 3 * samples[0]! + 3)
          const isGrey = colour === 0 || colour === 4
          expected.push(...(colour === 3 ? entry : isGrey ? Array(3).fill(bytes[0]) : bytes.slice(0, 3)))
          if (colour >= 4) expected.push(bytes.at(-1)!)
          const at = y * WIDTH + x
          seen.push(...rgb.subarray(3 * at, 3 * at + 3), ...(colour >= 4 ? [alpha![at]!] : []))
        }
      }
      expect(seen, `colour type ${colour}, ${depth} bits, interlace ${interlace}`).toEqual(expected)
    }
  }
  const transparency = chunk('tRNS', Buffer.from([7, 0, 9]))
  const { alpha } = decodePng(pngOf(3, 4, 0, [chunk('PLTE', PALETTE), transparency]))
  expect([...alpha!.subarray(0, 4)]).toEqual([7, 0, 9, 255])
})

const withLogo = (bytes: Buffer, type = 'png') => ({
  ...statement(),
  issuer: { ...statement().issuer, logo: `data:image/${type};base64,${bytes.toString('base64')}` },
})

test('a logo that is broken in any way is refused, and the process lives on', async () => {
  const whole = pngOf(6, 8, 0)
  const broken = [
    ...[9, 30, 40, 60, 120].map((length) => whole.subarray(0, length)),
    ...[60, 70, 90].map((at) =>
      Buffer.concat([whole.subarray(0, at), Buffer.alloc(9), whole.subarray(at + 9)]),
    ),
    pngOf(6, 8, 0, [], [60_000, 60_000]),
    pngOf(6, 8, 0, [], [WIDTH, HEIGHT + 1]),
    pngOf(6, 8, 0, [], [0, HEIGHT]),
    Buffer.from('ffd8ffe0', 'hex'),
    Buffer.alloc(0),
  ]
  for (const logo of broken) {
    await expect(pdfOf(withLogo(logo))).rejects.toMatchObject({ code: 'STATEMENT_INVALID' })
  }
})

test('a logo leaves the text of the page as it is', async () => {
  const text = await textOf((await pdfOf(statement())).pdf)
  for (const [colour, depth] of TYPES) {
    const { pdf } = await pdfOf(withLogo(pngOf(colour, depth, 1, [chunk('PLTE', PALETTE)])))
    expect(await textOf(pdf)).toBe(text)
  }
  const jpeg = Buffer.from(JPEG, 'base64')
  expect(await textOf((await pdfOf(withLogo(jpeg, 'jpeg'))).pdf)).toBe(text)
})

/** One grey pixel. */
const JPEG =
  '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQH/wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAACf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AVN//2Q=='
