#!/usr/bin/env node
import { runFromSource } from '../scripts/from-source.js'

await runFromSource(process.argv.slice(2), './src/commands')
