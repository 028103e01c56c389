#!/usr/bin/env node
// tabib from its TypeScript sources: no bundle, no manifest.
import { register } from 'tsx/esm/api'

register()
const { main } = await import('../src/main.ts')
await main(process.argv.slice(2), { commands: './src/commands' })
