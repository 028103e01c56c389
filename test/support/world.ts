import { afterAll, beforeAll, inject } from 'vitest'
import { createWorld, type World, type WorldOptions } from '../../src/sandbox/world.ts'

/** A world of a test file's own; call what it returns inside a test. */
export function useWorld(options: WorldOptions = {}): () => World {
  let world: World | undefined
  beforeAll(async () => {
    world = await createWorld({ ...options, prepared: inject('prepared') })
  })
  afterAll(async () => {
    await world?.[Symbol.asyncDispose]()
  })
  return () => {
    if (!world) throw new Error('the world exists only while tests run')
    return world
  }
}
