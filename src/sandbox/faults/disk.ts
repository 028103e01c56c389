import { execFile } from 'node:child_process'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { TabibError } from '../../errors.ts'
import type { Account } from '../folder.ts'

/** A disk of a server's own, small enough to be filled. */
export interface SmallDisk {
  /** Takes every byte that is left. */
  fill(): Promise<void>
  /** Gives back what `fill` took. */
  free(): Promise<void>
  /** Mounts it again where it is, with other options of tmpfs: `ro`, `rw`, `size=…`. */
  remount(options: string): Promise<void>
}

/**
 * Mounts a tmpfs of `sizeMb` MiB over the empty folder `dir`; the sandbox folder unmounts it when it is disposed.
 *
 * @throws TabibError SERVER_FAILED where mounting isn't allowed (it needs root on Linux).
 */
export async function mountSmallDisk(dir: string, sizeMb: number, account?: Account): Promise<SmallDisk> {
  const owner = account ? `,uid=${account.uid},gid=${account.gid}` : ''
  try {
    await promisify(execFile)('mount', [
      '-t',
      'tmpfs',
      '-o',
      `size=${sizeMb}m,mode=0700${owner}`,
      'tmpfs',
      dir,
    ])
  } catch (cause) {
    throw new TabibError(
      'SERVER_FAILED',
      `a disk of ${sizeMb} MiB could not be mounted at ${dir}: it needs root on Linux`,
      {
        cause,
        suggestions: ['sudo -E tabib drill run --all'],
        retryable: false,
      },
    )
  }
  const ballast = join(dir, '.ballast')
  return {
    async fill() {
      const file = await open(ballast, 'a')
      try {
        // Ever smaller pieces until not even a block fits.
        for (let size = 1 << 20; size >= 512; size /= 2) await writeUntilFull(file, Buffer.alloc(size))
      } finally {
        await file.close()
      }
    },
    free: () => rm(ballast, { force: true }),
    async remount(options) {
      await promisify(execFile)('mount', ['-o', `remount,${options}`, dir])
    },
  }
}

async function writeUntilFull(file: { write(data: Buffer): Promise<unknown> }, data: Buffer): Promise<void> {
  try {
    for (;;) await file.write(data)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
  }
}
