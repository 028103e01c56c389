import { isPlain } from './render.ts'

/** How far long work is, on stderr: a bar on a terminal, a line every few seconds otherwise. */
export interface Progress {
  /** So many of all are done. */
  at(done: number, all: number, note?: string): void
  /** Words for when nothing can be counted. */
  say(words: string): void
  end(): void
}

const LINE_EVERY_MS = 5_000
/** The rate is that of so long. */
const WINDOW_MS = 20_000
const BAR = 24

export function openProgress({
  quiet,
  stream = process.stderr,
}: {
  quiet: boolean
  stream?: NodeJS.WriteStream
}): Progress {
  const isDrawn = !isPlain(stream)
  const seen: { at: number; done: number }[] = []
  let toldAt = Number.NEGATIVE_INFINITY
  const clear = () => {
    if (isDrawn && !quiet) stream.write('\r\x1b[2K')
  }
  return {
    at(done, all, note = '') {
      if (quiet) return
      const now = performance.now()
      seen.push({ at: now, done })
      while (now - seen[0]!.at > WINDOW_MS && seen.length > 2) seen.shift()
      const text = progressText({ done, all, perS: rateOf(seen), note })
      if (isDrawn) {
        const filled = all === 0 ? BAR : Math.floor((done / all) * BAR)
        stream.write(`\r\x1b[2K[${'#'.repeat(filled)}${'.'.repeat(BAR - filled)}] ${text}`)
      } else if (now - toldAt >= LINE_EVERY_MS) {
        toldAt = now
        stream.write(`${text}\n`)
      }
    },
    say(words) {
      if (quiet) return
      clear()
      stream.write(`${words}\n`)
    },
    end: clear,
  }
}

/** `1200 of 5000 (24 %), 210/s, 18 s left, 2 basic`; without a rate while there is none. */
export function progressText({
  done,
  all,
  perS,
  note,
}: {
  done: number
  all: number
  perS: number
  note: string
}): string {
  const percent = all === 0 ? 100 : Math.floor((done / all) * 100)
  const parts = [`${done} of ${all} (${percent} %)`]
  if (perS > 0)
    parts.push(`${perS < 10 ? perS.toFixed(1) : Math.round(perS)}/s`, `${leftText((all - done) / perS)} left`)
  if (note !== '') parts.push(note)
  return parts.join(', ')
}

function rateOf(seen: { at: number; done: number }[]): number {
  const [first, last] = [seen[0]!, seen.at(-1)!]
  return last.at === first.at ? 0 : ((last.done - first.done) * 1_000) / (last.at - first.at)
}

function leftText(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`
  const minutes = Math.ceil(seconds / 60)
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
