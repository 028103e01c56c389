/**
 * SipHash-2-4 (Aumasson and Bernstein, 2012): a keyed pseudorandom function of short messages, 64 bits. It is what makes
 * a cheap filter safe to keep: without the key its values tell nothing of what was hashed.
 *
 * In halves of 32 bits, since BigInt is thirty times slower. The result stays in `low` and `high`.
 */
export class SipHash {
  low = 0
  high = 0
  /** The message as little-endian words, filled by whoever hashes; see `words`. */
  readonly block = new Int32Array(128)
  readonly #key: Int32Array

  /** @param key 16 bytes. */
  constructor(key: Uint8Array) {
    const view = new DataView(key.buffer, key.byteOffset, 16)
    this.#key = Int32Array.from([0, 4, 8, 12], (at) => view.getInt32(at, true))
  }

  /** Hashes bytes as the paper has it. At most 500. */
  bytes(message: Uint8Array): void {
    const { block } = this
    const { length } = message
    const blocks = (length >> 3) + 1
    block.fill(0, 0, 2 * blocks)
    for (let i = 0; i < length; i++) block[i >> 2]! |= message[i]! << ((i & 3) << 3)
    block[2 * blocks - 1]! |= length << 24
    this.words(blocks)
  }

  /** Hashes the first `blocks` blocks of eight bytes in `block`, whose last byte is the message's length. */
  words(blocks: number): void {
    const { block } = this
    const key = this.#key
    const [k0l, k0h, k1l, k1h] = [key[0]!, key[1]!, key[2]!, key[3]!]
    let v0l = k0l ^ 0x70736575
    let v0h = k0h ^ 0x736f6d65
    let v1l = k1l ^ 0x6e646f6d
    let v1h = k1h ^ 0x646f7261
    let v2l = k0l ^ 0x6e657261
    let v2h = k0h ^ 0x6c796765
    let v3l = k1l ^ 0x79746573
    let v3h = k1h ^ 0x74656462
    for (let at = 0; at <= blocks; at++) {
      const last = at === blocks
      const ml = last ? 0 : block[2 * at]!
      const mh = last ? 0 : block[2 * at + 1]!
      v3l ^= ml
      v3h ^= mh
      if (last) v2l ^= 0xff
      for (let round = last ? 4 : 2; round > 0; round--) {
        v0l = (v0l + v1l) | 0
        v0h = (v0h + v1h + (v0l >>> 0 < v1l >>> 0 ? 1 : 0)) | 0
        v2l = (v2l + v3l) | 0
        v2h = (v2h + v3h + (v2l >>> 0 < v3l >>> 0 ? 1 : 0)) | 0
        let turned = (v1l << 13) | (v1h >>> 19)
        v1h = ((v1h << 13) | (v1l >>> 19)) ^ v0h
        v1l = turned ^ v0l
        turned = (v3l << 16) | (v3h >>> 16)
        v3h = ((v3h << 16) | (v3l >>> 16)) ^ v2h
        v3l = turned ^ v2l
        turned = v0l
        v0l = v0h
        v0h = turned
        v2l = (v2l + v1l) | 0
        v2h = (v2h + v1h + (v2l >>> 0 < v1l >>> 0 ? 1 : 0)) | 0
        v0l = (v0l + v3l) | 0
        v0h = (v0h + v3h + (v0l >>> 0 < v3l >>> 0 ? 1 : 0)) | 0
        turned = (v1l << 17) | (v1h >>> 15)
        v1h = ((v1h << 17) | (v1l >>> 15)) ^ v2h
        v1l = turned ^ v2l
        turned = (v3l << 21) | (v3h >>> 11)
        v3h = ((v3h << 21) | (v3l >>> 11)) ^ v0h
        v3l = turned ^ v0l
        turned = v2l
        v2l = v2h
        v2h = turned
      }
      v0l ^= ml
      v0h ^= mh
    }
    this.low = v0l ^ v1l ^ v2l ^ v3l
    this.high = v0h ^ v1h ^ v2h ^ v3h
  }
}
