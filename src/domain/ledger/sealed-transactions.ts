import type { Connection } from '../../adapters/postgres/client.ts'
import { changedBlocks } from './digest.ts'
import { parseTransactions, type SealedTransactions, sealLines } from './seal.ts'
import type { PassOptions, Sighting, Turn } from './sighting.ts'

/** Counts sealed transactions, passes them on to the next seal, and yields those blocks, of the ones whose turn it is, that changed. */
export async function* changedTransactions(
  connection: Connection,
  { scope, last, writer, signal }: PassOptions,
  sighting: Sighting,
  turn: Turn,
): AsyncGenerator<SealedTransactions> {
  let nth = 0
  for await (const lines of last?.ofThisCluster ? sealLines(last.path, 't') : []) {
    const due: SealedTransactions[] = []
    for (const line of lines) {
      await writer?.write(line)
      const block = parseTransactions(line)
      sighting.transactions += block.count
      if (nth++ % turn.of === turn.now && scope.accountId === undefined) due.push(block)
    }
    yield* await changedBlocks(connection, due, signal)
  }
}
