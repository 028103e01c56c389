#!/usr/bin/env node
const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`tabib needs Node 20.19 or newer; this is ${process.versions.node}\n`)
  process.exit(2)
}
// Keeps compiled code between runs; Node 20 has no such cache.
process.getBuiltinModule('module').enableCompileCache?.()
const { main } = await import('../dist/main.js')
await main(process.argv.slice(2))
