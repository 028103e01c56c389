import { type ChildProcess, spawn } from 'node:child_process'

/** Reads files of folders that may hang: a mount whose server is gone, a pipe that nobody writes to. */
export interface Files extends Disposable {
  /** A file's text. Rejects with Node's own error, `code` and all. */
  read(path: string): Promise<string>
  /** Names in a folder. Rejects with Node's own error, `code` and all. */
  list(folder: string): Promise<string[]>
}

type Call = 'readFile' | 'readdir'

// Dies with its parent, though a read of its own still hangs.
const READER = `
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
process.on('message', ({ id, call, path }) =>
  require('node:fs/promises')[call](path, 'utf8').then(
    (value) => process.send({ id, value }),
    ({ message, code }) => process.send({ id, error: { message, code } })))`

/**
 * Opens a reader, a process of its own that starts with the first read. Node cannot end a process while one of its reads
 * hangs in the kernel; disposing kills the reader instead, and what it has not read by then rejects.
 */
export function openFiles(): Files {
  let reader: ChildProcess | undefined
  const waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>()
  const giveUp = (error: Error) => {
    for (const { reject } of waiting.values()) reject(error)
    waiting.clear()
  }
  const start = (): ChildProcess => {
    const child = spawn(process.execPath, ['-e', READER], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
    child.on('error', giveUp)
    child.on('exit', () => giveUp(Object.assign(new Error('the reader ended'), { code: 'EIO' })))
    child.on('message', ({ id, value, error }: { id: number; value?: never; error?: Error }) => {
      if (error) waiting.get(id)?.reject(Object.assign(new Error(error.message), error))
      else waiting.get(id)?.resolve(value!)
      waiting.delete(id)
    })
    return child
  }
  let calls = 0
  const ask = <T>(call: Call, path: string): Promise<T> => {
    reader ??= start()
    const id = ++calls
    return new Promise<T>((resolve, reject) => {
      waiting.set(id, { resolve, reject })
      reader!.send({ id, call, path }, (error) => error && giveUp(error))
    })
  }
  return {
    read: (path) => ask<string>('readFile', path),
    list: (folder) => ask<string[]>('readdir', folder),
    [Symbol.dispose]() {
      if (reader?.connected) reader.disconnect()
      reader?.kill('SIGKILL')
      reader?.unref()
    },
  }
}
