import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../src/package-root.ts'

interface Import {
  from: string
  to: string
  typeOnly: boolean
}

const root = packageRoot()
const filesUnder = (folder: string) =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(ts|js)$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))

const sources = filesUnder('src')
const outside = ['bin', 'scripts', 'test', 'bench'].flatMap(filesUnder)
const importsOf = (files: string[]) => files.flatMap(readImports)
const imports = importsOf(sources)

// Root files that know nothing of tabib's doors: anybody may import them.
const LEAVES = ['errors', 'service', 'finding', 'findings-report', 'package-root', 'nearest', 'render'].map(
  (name) => `src/${name}.ts`,
)

// Who may import whom (ARCHITECTURE.md). A layer may always import itself.
const MAY_IMPORT: Record<string, string[]> = {
  commands: ['workers', 'api', 'drill', 'catalog', 'domain', 'door'],
  hooks: ['door'],
  workers: ['catalog', 'domain', 'door'],
  api: ['catalog', 'domain', 'door'],
  drill: ['catalog', 'domain', 'sandbox', 'door'],
  sandbox: ['domain', 'adapters', 'door'],
  catalog: ['domain'],
  domain: ['adapters'],
  adapters: [],
  // app, config, the base classes, rendering.
  door: ['domain', 'adapters'],
}
const TYPES_ONLY: Record<string, string[]> = {
  catalog: ['src/app.ts', 'src/sandbox/world.ts', 'src/config.ts'],
  domain: ['src/config.ts'],
  sandbox: ['src/app.ts'],
  // What they send is the guard's alone to make.
  adapters: ['src/domain/messaging/guarded-payload.ts'],
}
const MAY_REHEARSE = /^src\/(drill\/|sandbox\/|commands\/(up\.ts|drill\/))/

test('imports point downward', () => {
  const wrong = imports.filter(({ from, to, typeOnly }) => {
    const [upper, lower] = [layerOf(from), layerOf(to)]
    if (upper === lower || LEAVES.includes(to)) return false
    if (typeOnly && TYPES_ONLY[upper]?.includes(to)) return false
    if (lower === 'sandbox' && !typeOnly && MAY_REHEARSE.test(from)) return false
    return !MAY_IMPORT[upper]?.includes(lower)
  })
  expect(wrong.map(({ from, to }) => `${from} -> ${to}`)).toEqual([])
})

test('only what rehearses imports the sandbox', () => {
  const wrong = imports.filter(
    ({ from, to, typeOnly }) => !typeOnly && to.startsWith('src/sandbox/') && !MAY_REHEARSE.test(from),
  )
  expect(wrong.map(({ from, to }) => `${from} -> ${to}`)).toEqual([])
})

test('no file imports itself in a circle', () => {
  const next = new Map<string, string[]>()
  for (const { from, to, typeOnly } of imports) if (!typeOnly) next.set(from, [...(next.get(from) ?? []), to])
  expect(sources.flatMap((file) => circleFrom(file, next))).toEqual([])
})

test('areas of the domain do not import each other in a circle', () => {
  const areaOf = (file: string) => /^src\/domain\/([^/]+)\//.exec(file)?.[1]
  const next = new Map<string, string[]>()
  for (const { from, to } of imports) {
    const [area, other] = [areaOf(from), areaOf(to)]
    if (area && other && area !== other) next.set(area, [...(next.get(area) ?? []), other])
  }
  expect([...next.keys()].flatMap((area) => circleFrom(area, next))).toEqual([])
})

test('every file is imported, or is a door', () => {
  const imported = new Set([...imports, ...importsOf(outside)].map(({ to }) => to))
  const isDoor = (file: string) =>
    /^src\/(commands\/|hooks\/|main\.ts$|workers\/statement-renderer\.ts$)/.test(file)
  expect(sources.filter((file) => !imported.has(file) && !isDoor(file))).toEqual([])
})

test('nobody but the configuration and the doors reads the environment', () => {
  const readers = sources.filter((file) => /process\.env\b/.test(readFileSync(join(root, file), 'utf8')))
  const allowed = /^src\/(config|app|command|render)\.ts$|^src\/sandbox\/|^src\/workers\//
  expect(readers.filter((file) => !allowed.test(file))).toEqual([])
})

test('nobody but the HTTP adapter opens a way out: everybody else is given one', () => {
  const wrong = sources.filter((file) => {
    if (/^src\/(adapters\/http|sandbox|catalog|drill|commands\/drill)\//.test(file)) return false
    const text = readFileSync(join(root, file), 'utf8')
    const calls = /(await|return|=>) fetch\(/.test(text)
    const isGiven = /import type \{ Fetch \} from/.test(text)
    return (
      (calls && !isGiven) ||
      /\bglobalThis\.fetch\(|= globalThis\.fetch\b|from '(undici|node:https?)'/.test(text)
    )
  })
  expect(wrong).toEqual([])
})

function layerOf(file: string): string {
  const folder = /^src\/([^/]+)\//.exec(file)?.[1]
  return folder ?? 'door'
}

// A scan, not a parser: our formatter writes every import in one of these forms.
function readImports(from: string): Import[] {
  const text = readFileSync(join(root, from), 'utf8')
  const found: Import[] = []
  const statement = /^(?:import|export)\s+(type\s+)?([^'";]*?)from\s+'(\.[^']+)'/gm
  for (const [, type, names = '', path] of text.matchAll(statement)) {
    const named = /\{([^}]*)\}/
      .exec(names)?.[1]
      ?.split(',')
      .map((name) => name.trim())
    const onlyTypes =
      named !== undefined &&
      !/^\w/.test(names.trim()) &&
      named.filter(Boolean).every((name) => name.startsWith('type '))
    found.push({ from, to: target(from, path!), typeOnly: type !== undefined || onlyTypes })
  }
  for (const [, path] of text.matchAll(/^import\s+'(\.[^']+)'/gm)) {
    found.push({ from, to: target(from, path!), typeOnly: false })
  }
  for (const [, path] of text.matchAll(/\bimport\(\s*'(\.[^']+)'\s*\)/g)) {
    found.push({ from, to: target(from, path!), typeOnly: false })
  }
  return found
}

function target(from: string, path: string): string {
  return relative(root, resolve(root, dirname(from), path))
}

/** The path from a node back to itself, when there is one and the node is its first in order (so each is told once). */
function circleFrom(start: string, next: Map<string, string[]>): string[] {
  const queue = [[start]]
  const seen = new Set<string>()
  for (let path = queue.shift(); path; path = queue.shift()) {
    for (const to of next.get(path.at(-1)!) ?? []) {
      if (to === start) return path.some((node) => node < start) ? [] : [[...path, to].join(' -> ')]
      if (seen.has(to)) continue
      seen.add(to)
      queue.push([...path, to])
    }
  }
  return []
}
