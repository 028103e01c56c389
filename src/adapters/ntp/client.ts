import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { promisify } from 'node:util'

/** Whether this host's clock follows NTP; `unknown` where nothing here can tell, as in most containers. */
export interface NtpState {
  state: 'synchronised' | 'unsynchronised' | 'unknown'
  /** Who said so: `chrony`, `systemd` (of the kernel's clock, whoever keeps it), `timesyncd`. */
  by: string | null
  detail: string
}

const LIMIT_MS = 2_000

/** Asks whoever is there: chrony, then systemd, then what timesyncd leaves in /run. Changes nothing, never throws. */
export async function readNtp(): Promise<NtpState> {
  const tracking = await output('chronyc', ['-c', '-n', 'tracking'])
  const chrony = tracking === undefined ? undefined : chronyState(tracking)
  if (chrony) return chrony
  const properties = await output('timedatectl', ['show', '--property=NTP', '--property=NTPSynchronized'])
  const systemd = properties === undefined ? undefined : systemdState(properties)
  if (systemd) return systemd
  if (existsSync('/run/systemd/timesync/synchronized'))
    return { state: 'synchronised', by: 'timesyncd', detail: 'timesyncd has synchronised' }
  return { state: 'unknown', by: null, detail: 'neither chrony nor systemd answers here' }
}

/** What `chronyc -c tracking` prints: 14 fields, the fourth the stratum's reference, the last whether it leaps (chrony 4). */
export function chronyState(csv: string): NtpState | undefined {
  const fields = csv.trim().split(',')
  const [, source, stratum, , correction] = fields
  const leap = fields.at(-1)
  if (fields.length < 14 || leap === undefined) return undefined
  const synchronised = leap !== 'Not synchronised' && Number(stratum) > 0
  return {
    state: synchronised ? 'synchronised' : 'unsynchronised',
    by: 'chrony',
    detail: synchronised
      ? `stratum ${stratum}, ${Math.abs(Number(correction) * 1_000).toFixed(3)} ms off ${source || 'its source'}`
      : 'chrony runs and has no source that it trusts',
  }
}

/** What `timedatectl show` prints of NTP. */
export function systemdState(properties: string): NtpState | undefined {
  const synchronised = /^NTPSynchronized=(yes|no)$/m.exec(properties)?.[1]
  if (synchronised === undefined) return undefined
  const on = /^NTP=yes$/m.test(properties)
  return synchronised === 'yes'
    ? { state: 'synchronised', by: 'systemd', detail: 'the kernel’s clock is kept' }
    : {
        state: 'unsynchronised',
        by: 'systemd',
        detail: on ? 'NTP is on and has not synchronised' : 'NTP is off',
      }
}

/** Runs what the operator configured to set a clock. @returns its last words when it fails. */
export async function stepClock([program = '', ...args]: readonly string[]): Promise<string | undefined> {
  try {
    await promisify(execFile)(program, args, { timeout: 30_000 })
    return undefined
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string }
    return stderr.trim().split('\n').at(-1) || message.split('\n')[0]!
  }
}

async function output(program: string, args: string[]): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)(program, args, { timeout: LIMIT_MS })
    return stdout
  } catch {
    return undefined
  }
}
