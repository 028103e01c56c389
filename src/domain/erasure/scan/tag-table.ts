/** A hash table from 64-bit tags to indexes, in typed arrays: a look-up allocates nothing. */
export class TagTable {
  readonly #mask: number
  readonly #slots: Int32Array
  readonly #low: Int32Array
  readonly #high: Int32Array
  readonly #next: Int32Array

  constructor(size: number) {
    const slots = 2 ** Math.ceil(Math.log2(Math.max(16, 4 * size)))
    this.#mask = slots - 1
    this.#slots = new Int32Array(slots).fill(-1)
    this.#low = new Int32Array(size)
    this.#high = new Int32Array(size)
    this.#next = new Int32Array(size).fill(-1)
  }

  /** Adds an index below the table's size; several may have one tag. */
  add(low: number, high: number, index: number): void {
    this.#low[index] = low
    this.#high[index] = high
    for (let slot = low & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const other = this.#slots[slot]!
      if (other >= 0 && (this.#low[other] !== low || this.#high[other] !== high)) continue
      this.#next[index] = other
      this.#slots[slot] = index
      return
    }
  }

  /** The first index with this tag, or -1. */
  find(low: number, high: number): number {
    for (let slot = low & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const index = this.#slots[slot]!
      if (index < 0 || (this.#low[index] === low && this.#high[index] === high)) return index
    }
  }

  /** The next one with the same tag, or -1. */
  next(index: number): number {
    return this.#next[index]!
  }
}
