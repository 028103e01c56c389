import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { killTree, startTimeOf } from '../../src/sandbox/faults/process.ts'
import { endOrphans } from '../../src/sandbox/folder.ts'

let base: string
let root: string
beforeAll(async () => {
  // A place of its own: any sandbox that starts elsewhere would clear the usual one first.
  root = await mkdtemp(join(tmpdir(), 'tabib-orphans-'))
  await chmod(root, 0o755)
  base = join(root, `tabib-sandbox-${userInfo().uid}`)
})
afterAll(() => rm(root, { recursive: true, force: true }))

test('what a killed run left behind is ended and removed at the next start', async () => {
  const fixture = new URL('fixture/hold-sandbox.ts', import.meta.url).pathname
  const holder = spawn(process.execPath, ['--import', 'tsx', fixture], {
    env: { ...process.env, TMPDIR: root },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = (await once(createInterface({ input: holder.stdout }), 'line')) as [string]
  const { path, pids } = JSON.parse(line) as { path: string; pids: number[] }
  expect(await endOrphans(base)).toEqual([])
  expect(pids.map(startTimeOf)).not.toContain(undefined)

  const exited = once(holder, 'exit')
  holder.kill('SIGKILL')
  await exited
  expect(pids.some((pid) => startTimeOf(pid) !== undefined)).toBe(true)

  expect(await endOrphans(base)).toEqual([path])
  expect(pids.map(startTimeOf)).toEqual([undefined, undefined, undefined])
  expect(existsSync(path)).toBe(false)
})

test('a recorded process id that belongs to somebody else by now is left alone', async () => {
  const bystander = spawn('sleep', ['600'])
  const pid = bystander.pid as number
  const orphan = join(base, '999999999-1-abcdef')
  await mkdir(join(orphan, 'processes'), { recursive: true })
  await writeFile(join(orphan, 'processes', `${pid}-1`), '')
  await endOrphans(base)
  expect(existsSync(orphan)).toBe(false)
  expect(startTimeOf(pid)).toBeDefined()
  await killTree(pid)
})
