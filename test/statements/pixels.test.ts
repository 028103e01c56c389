import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { requirePrograms } from '../../src/sandbox/servers/find.ts'
import { linesPage, MIXED, settingOf } from './support.ts'

const FONT = createRequire(import.meta.url).resolve('vazirmatn/fonts/ttf/Vazirmatn-Regular.ttf')
const DPI = 144
const BAND = (40 * DPI) / 72

interface Picture {
  width: number
  /** From 0, black, to 255. */
  pixels: Uint8Array
}

async function pictureOf(pdf: Buffer): Promise<Picture> {
  const { pdftoppm } = await requirePrograms(['pdftoppm'])
  const { stdout } = await execa(pdftoppm, ['-gray', '-r', String(DPI)], { input: pdf, encoding: 'buffer' })
  const head = /^P5\s+(\d+)\s+(\d+)\s+255\s/.exec(Buffer.from(stdout).toString('latin1', 0, 40))!
  return { width: Number(head[1]), pixels: stdout.subarray(head[0].length) }
}

/** Chromium's page with the same lines in the same places. */
async function chromiumPage(lines: readonly string[]): Promise<Buffer> {
  const { chromium } = await requirePrograms(['chromium'])
  const folder = await mkdtemp(join(tmpdir(), 'tabib-pixels-'))
  try {
    const rows = lines
      .map(settingOf)
      .map(
        ({ text, direction }, i) =>
          `<div dir="${direction}" style="top:${40 * i}pt">${text.replace(/[&<]/g, (c) => `&#${c.charCodeAt(0)};`)}</div>`,
      )
    await writeFile(
      join(folder, 'page.html'),
      `<!doctype html><meta charset="utf-8"><html lang="fa-AF"><style>
        @page { size: 595.28pt 841.89pt; margin: 0 }
        @font-face { font-family: V; src: url("file://${FONT}") }
        body { margin: 0; font: 14pt/40pt V; text-align: right }
        div { position: absolute; right: 95.28pt; white-space: nowrap }
      </style>${rows.join('')}`,
    )
    await execa(chromium, [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--no-pdf-header-footer',
      `--user-data-dir=${join(folder, 'profile')}`,
      `--print-to-pdf=${join(folder, 'page.pdf')}`,
      join(folder, 'page.html'),
    ])
    return await readFile(join(folder, 'page.pdf'))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** The ink of one line: where it begins, how far it reaches, and whether there is any at a place relative to that. */
function inkOf({ width, pixels }: Picture, line: number) {
  const isInk = (x: number, y: number) => (pixels[y * width + x] ?? 255) < 128
  let [left, right, top, bottom] = [width, 0, Number.POSITIVE_INFINITY, 0]
  for (let y = line * BAND; y < (line + 1) * BAND; y++) {
    for (let x = 0; x < width; x++) {
      if (!isInk(x, y)) continue
      left = Math.min(left, x)
      right = Math.max(right, x)
      top = Math.min(top, y)
      bottom = Math.max(bottom, y)
    }
  }
  return {
    width: right - left,
    height: bottom - top,
    has: (x: number, y: number) => isInk(left + x, top + y),
  }
}

/** How much of one line's ink has none of the other's within a pixel. */
function strayInk(one: ReturnType<typeof inkOf>, other: ReturnType<typeof inkOf>): number {
  const near = [-1, 0, 1].flatMap((dx) => [-1, 0, 1].map((dy) => [dx, dy] as const))
  let [ink, stray] = [0, 0]
  for (let y = 0; y <= one.height; y++) {
    for (let x = 0; x <= one.width; x++) {
      if (!one.has(x, y)) continue
      ink++
      if (!near.some(([dx, dy]) => other.has(x + dx, y + dy))) stray++
    }
  }
  return stray / ink
}

test('lines look as Chromium draws them', async () => {
  // The afghani's sign comes from another font in Chromium.
  const lines = MIXED.filter((text) => !text.includes('؋'))
  const [ours, theirs] = await Promise.all([
    linesPage(lines).then(pictureOf),
    chromiumPage(lines).then(pictureOf),
  ])
  for (const [i, text] of lines.entries()) {
    const [one, other] = [inkOf(ours, i), inkOf(theirs, i)]
    expect(Math.abs(one.width - other.width), `width of ${text}`).toBeLessThanOrEqual(2)
    expect(strayInk(one, other), text).toBeLessThan(0.01)
    expect(strayInk(other, one), text).toBeLessThan(0.01)
  }
})
