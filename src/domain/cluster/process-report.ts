import type { Logger } from 'pino'
import { type NtpState, readNtp } from '../../adapters/ntp/client.ts'
import { openDatabase } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { type ClockSample, clockOffset, sampleClock } from './clock-offset.ts'
import type { WaitLog } from './pool-wait.ts'

const EVERY_MS = 2_000
const KEPT_SAMPLES = 8
const NTP_EVERY_MS = 60_000
// Of a process that was killed nothing is to be seen for longer.
const FORGET_AFTER = '1 hour'

/**
 * Tells the database every two seconds how this process fares: its waits for connections, and how far the database's clock
 * is from this host's. On a connection of its own, since the pool may be what is exhausted. Disposing it takes the
 * process's row away.
 */
export function openProcessReport(
  { config, log, waits }: { config: Pick<Config, 'databaseUrl'>; log: Logger; waits: WaitLog },
  { id: instance, host, what }: { id: string; host: string; what: 'api' | 'worker' },
): AsyncDisposable {
  const db = openDatabase({
    url: config.databaseUrl!,
    applicationName: `tabib ${what} run, report`,
    maxConnections: 1,
    connectTimeoutMs: EVERY_MS,
    answerWithinMs: EVERY_MS,
  })
  const samples: ClockSample[] = []
  let ntp: NtpState | undefined
  const lookAtNtp = async () => {
    ntp = await readNtp()
  }
  void lookAtNtp()
  const looking = setInterval(lookAtNtp, NTP_EVERY_MS)
  const beat = async () => {
    const { waits: count, p95S, refused } = waits.figures()
    const clock = clockOffset(samples)
    const sample = await sampleClock(async () => {
      const [row] = await db.query<{ ms: number }>(
        `insert into tabib.process as seen
           (instance, host, what, waits, wait_p95_s, refused, clock_offset_s, clock_error_s, ntp)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (instance) do update set at = clock_timestamp(), waits = excluded.waits,
           wait_p95_s = excluded.wait_p95_s, refused = excluded.refused,
           clock_offset_s = excluded.clock_offset_s, clock_error_s = excluded.clock_error_s,
           ntp = excluded.ntp
         returning extract(epoch from clock_timestamp())::float8 * 1000 as ms`,
        [
          instance,
          host,
          what,
          count,
          p95S,
          refused,
          clock ? clock.offsetMs / 1_000 : null,
          clock ? clock.errorMs / 1_000 : null,
          ntp?.state ?? null,
        ],
      )
      return row!.ms
    })
    samples.push(sample)
    if (samples.length > KEPT_SAMPLES) samples.shift()
  }
  let silent = false
  const tell = async () => {
    try {
      await beat()
      silent = false
    } catch (err) {
      if (!silent) log.warn({ err }, 'how this process fares could not be written')
      silent = true
    }
  }
  let telling = tell().then(() =>
    db.query(`delete from tabib.process where at < clock_timestamp() - $1::interval`, [FORGET_AFTER]).then(
      () => {},
      () => {},
    ),
  )
  let busy = false
  const timer = setInterval(() => {
    // One that waits for its answer is not asked again.
    if (busy) return
    busy = true
    telling = telling.then(tell).finally(() => {
      busy = false
    })
  }, EVERY_MS)
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      clearInterval(looking)
      await telling
      await db.query('delete from tabib.process where instance = $1', [instance]).catch(() => {})
      await db.close()
    },
  }
}
