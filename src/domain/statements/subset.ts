/** Cuts a font down to glyphs, which keep their ids; `appended` glyphs come again behind the font's last. */
export type Subset = (glyphIds: Iterable<number>, appended: readonly number[]) => Uint8Array

/** A glyph without its instructions, and the glyphs that it is composed of. */
interface Outline {
  bytes: Uint8Array
  components: number[]
}

// Of a composite glyph's parts (OpenType, glyf).
const WORDS = 0x1
const SCALE = 0x8
const MORE = 0x20
const TWO_SCALES = 0x40
const MATRIX = 0x80
const INSTRUCTIONS = 0x100

/**
 * Opens a TrueType font to be cut down to what a PDF needs of it: outlines and advances, without hints. Ids are kept, so
 * that glyphs need not be looked up again; outlines are read once a process.
 */
export function openSubsetter(font: Buffer): Subset {
  const table = tablesOf(font)
  const [head, hhea, maxp] = [table('head'), table('hhea'), table('maxp')]
  const [glyf, loca, hmtx] = [table('glyf'), table('loca'), table('hmtx')]
  const isLong = head.readInt16BE(50) === 1
  const glyphCount = maxp.readUInt16BE(4)
  const advanceCount = hhea.readUInt16BE(34)
  const offsetOf = (id: number) => (isLong ? loca.readUInt32BE(4 * id) : 2 * loca.readUInt16BE(2 * id))
  const outlines: (Outline | undefined)[] = []

  function outlineOf(id: number): Outline {
    const outline = outlines[id] ?? withoutInstructions(glyf.subarray(offsetOf(id), offsetOf(id + 1)))
    outlines[id] = outline
    return outline
  }

  function metricsOf(id: number): [advance: number, bearing: number] {
    const last = 4 * (advanceCount - 1)
    return id < advanceCount
      ? [hmtx.readUInt16BE(4 * id), hmtx.readInt16BE(4 * id + 2)]
      : [hmtx.readUInt16BE(last), hmtx.readInt16BE(last + 4 + 2 * (id - advanceCount))]
  }

  return (glyphIds, appended) => {
    const kept = new Set(glyphIds)
    for (const id of appended) kept.add(id)
    // A set may grow while it is gone through.
    for (const id of kept) for (const component of outlineOf(id).components) kept.add(component)
    const sources = [...kept].sort((a, b) => a - b)
    const targets = [...sources, ...appended.map((_, i) => glyphCount + i)]
    sources.push(...appended)

    const count = glyphCount + appended.length
    const size = sources.reduce((sum, id) => sum + even(outlineOf(id).bytes.length), 0)
    const width = size < 0x20000 ? 2 : 4
    const lengths = { glyf: size, head: head.length, hhea: hhea.length, hmtx: 4 * count }
    const cut = emptyFont({ ...lengths, loca: width * (count + 1), maxp: maxp.length })
    const {
      glyf: outlineAt,
      hmtx: metricsAt,
      loca: locaAt,
      head: headAt,
      hhea: hheaAt,
      maxp: maxpAt,
    } = cut.offsets
    const { bytes, view } = cut
    bytes.set(head, headAt)
    bytes.set(hhea, hheaAt)
    bytes.set(maxp, maxpAt)
    view.setInt16(headAt + 50, width === 4 ? 1 : 0)
    view.setUint16(hheaAt + 34, count)
    view.setUint16(maxpAt + 4, count)
    let at = 0
    let next = 0
    const locate = (upTo: number) => {
      for (; next <= upTo; next++) {
        if (width === 4) view.setUint32(locaAt + 4 * next, at)
        else view.setUint16(locaAt + 2 * next, at >> 1)
      }
    }
    sources.forEach((id, i) => {
      const target = targets[i]!
      locate(target)
      const outline = outlineOf(id).bytes
      bytes.set(outline, outlineAt + at)
      at += even(outline.length)
      const [advance, bearing] = metricsOf(id)
      view.setUint16(metricsAt + 4 * target, advance)
      view.setInt16(metricsAt + 4 * target + 2, bearing)
    })
    locate(count)
    return cut.sealed()
  }
}

const even = (length: number): number => length + (length & 1)

function tablesOf(font: Buffer): (tag: string) => Buffer {
  const found = new Map<string, Buffer>()
  for (let i = 0; i < font.readUInt16BE(4); i++) {
    const record = 12 + 16 * i
    const [offset, length] = [font.readUInt32BE(record + 8), font.readUInt32BE(record + 12)]
    found.set(font.toString('latin1', record, record + 4), font.subarray(offset, offset + length))
  }
  return (tag) => {
    const table = found.get(tag)
    if (table === undefined) throw new Error(`no TrueType font: it has no table ${tag}`)
    return table
  }
}

function withoutInstructions(glyph: Buffer): Outline {
  if (glyph.length === 0) return { bytes: glyph, components: [] }
  const contours = glyph.readInt16BE(0)
  if (contours >= 0) {
    const lengthAt = 10 + 2 * contours
    const length = glyph.readUInt16BE(lengthAt)
    const bytes = Buffer.concat([
      glyph.subarray(0, lengthAt),
      Buffer.alloc(2),
      glyph.subarray(lengthAt + 2 + length),
    ])
    return { bytes, components: [] }
  }
  const bytes = Buffer.from(glyph)
  const components: number[] = []
  let at = 10
  for (let flags = MORE; flags & MORE; ) {
    flags = bytes.readUInt16BE(at)
    bytes.writeUInt16BE(flags & ~INSTRUCTIONS, at)
    components.push(bytes.readUInt16BE(at + 2))
    at += 4 + (flags & WORDS ? 4 : 2) + (flags & SCALE ? 2 : flags & TWO_SCALES ? 4 : flags & MATRIX ? 8 : 0)
  }
  return { bytes: bytes.subarray(0, at), components }
}

/** A font file with room for tables of these lengths, in the order of their names; sealed when they are filled in. */
function emptyFont<Tag extends string>(lengths: Record<Tag, number>) {
  const tags = Object.keys(lengths) as Tag[]
  const offsets = {} as Record<Tag, number>
  let size = 12 + 16 * tags.length
  for (const tag of tags) {
    offsets[tag] = size
    size += (lengths[tag] + 3) & ~3
  }
  const bytes = new Uint8Array(size)
  const view = new DataView(bytes.buffer)
  const sum = (start: number, end: number) => {
    let total = 0
    for (let at = start; at < end; at += 4) total = (total + view.getInt32(at)) | 0
    return total
  }

  function sealed(): Uint8Array {
    const power = 31 - Math.clz32(tags.length)
    view.setUint32(0, 0x00010000)
    view.setUint16(4, tags.length)
    view.setUint16(6, 16 << power)
    view.setUint16(8, power)
    view.setUint16(10, 16 * tags.length - (16 << power))
    const adjustmentAt = (offsets as Record<string, number>).head! + 8
    view.setUint32(adjustmentAt, 0)
    tags.forEach((tag, i) => {
      const record = 12 + 16 * i
      for (let j = 0; j < 4; j++) bytes[record + j] = tag.charCodeAt(j)
      view.setInt32(record + 4, sum(offsets[tag], offsets[tag] + lengths[tag]))
      view.setUint32(record + 8, offsets[tag])
      view.setUint32(record + 12, lengths[tag])
    })
    view.setInt32(adjustmentAt, 0xb1b0afba - sum(0, size))
    return bytes
  }

  return { bytes, view, offsets, sealed }
}
