import { setTimeout as delay } from 'node:timers/promises'
import { Flags } from '@oclif/core'
import type { App } from '../../app.ts'
import { durationFlag, moderate, planned, TabibCommand } from '../../command.ts'
import {
  type Advance,
  advanceKeys,
  planRotation,
  type RotationPlan,
  rotateKeys,
  SIGNING_ALGORITHMS,
} from '../../domain/keys/rotate.ts'
import { TabibError } from '../../errors.ts'
import { purposeFlag } from '../../flags.ts'
import { details, mark } from '../../render.ts'

const LOOK_EVERY_MS = 1_000

export default class KeysRotate extends TabibCommand<typeof KeysRotate> {
  static override summary = 'Replace the key that signs, in phases that no valid token falls between.'
  static override description =
    'Makes a key, publishes it, and returns; the key-rotation worker has it sign once every verifier holds it, and ' +
    'retires the old one when its last token has expired. The same command again goes on with the rotation under way.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --purpose join-token --dry-run',
    '<%= config.bin %> <%= command.id %> --purpose join-token --wait --yes',
    '<%= config.bin %> <%= command.id %> --purpose service-token --algorithm EdDSA --token-lifetime 15m --overlap 30m --yes',
    '<%= config.bin %> <%= command.id %> --purpose join-token --taint --yes',
  ]
  static override flags = {
    purpose: purposeFlag({ required: true }),
    algorithm: Flags.option({ options: SIGNING_ALGORITHMS })({
      description: 'of the new key; keys.algorithm',
    }),
    overlap: durationFlag({ description: 'both keys published, at least; keys.overlap' }),
    'token-lifetime': durationFlag({ description: 'the longest life of a token; keys.tokenLifetime' }),
    'cache-age': durationFlag({ description: 'how long verifiers may keep a key set; keys.cacheAge' }),
    skew: durationFlag({ description: 'how far clocks may differ; keys.skew' }),
    taint: Flags.boolean({ description: 'the present key may have leaked: it never signs again afterwards' }),
    'change-store': Flags.boolean({
      description: 'make the new key in the key store configured here, although the last one lies in another',
    }),
    wait: Flags.boolean({ description: 'stay until the new key signs' }),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const { purpose, taint, wait } = this.flags
    const app = await this.openApp()
    const { algorithm, policy: configured } = app.config.keys
    const seconds = (ms: number | undefined, otherwise: number) =>
      ms === undefined ? otherwise : Math.ceil(ms / 1_000)
    const plan = await planRotation(app, {
      purpose,
      taint,
      changeStore: this.flags['change-store'],
      algorithm: this.flags.algorithm ?? algorithm,
      policy: {
        overlapS: seconds(this.flags.overlap, configured.overlapS),
        tokenLifetimeS: seconds(this.flags['token-lifetime'], configured.tokenLifetimeS),
        cacheAgeS: seconds(this.flags['cache-age'], configured.cacheAgeS),
        skewS: seconds(this.flags.skew, configured.skewS),
        allAttest: configured.allAttest,
      },
    })
    // A rotation that is under way is the same plan: interrupted, the same hash goes on with it.
    const { candidate: _, ...hashed } = plan
    const hash = await this.settlePlan(hashed, () => planText(plan))
    if (hash === undefined) return
    this.note(planText(plan))
    await this.confirmModerate(`Rotating the keys of ${purpose}`)
    const given = this.argv.filter((arg, i) => !/^--apply(=|$)/.test(arg) && this.argv[i - 1] !== '--apply')
    this.resumeWith = [this.config.bin, this.commandName, ...given, '--apply', hash].join(' ')
    const work = async () => {
      const started = await rotateKeys(app, { ...plan, by: this.actor })
      return wait ? { ...started, ...(await this.#untilActive(app, started)) } : started
    }
    const result = await this.mutate({ targets: [`keys:${purpose}`], planHash: hash }, work).catch(
      (error) => {
        if (error instanceof TabibError && error.code === 'TIMED_OUT')
          error.suggestions.push(this.resumeWith!)
        if (error instanceof TabibError && error.code === 'KEY_ELSEWHERE')
          error.suggestions.push('the same command with --change-store, to have the next key made here')
        throw error
      },
    )
    this.succeed({ result, text: () => resultText(purpose, result), warnings: result.undestroyed })
  }

  async #untilActive(app: App, started: Advance): Promise<Advance> {
    const moved = [...started.moved]
    let shown = ''
    let last = started
    while (last.waits.length > 0) {
      // Seconds run down with each look; what is waited for is told when it changes.
      const waits = last.waits.join('; ').replace(/\d+ s /g, '')
      if (waits !== shown) this.note(`waits for ${last.waits.join('; ')}`)
      shown = waits
      await delay(LOOK_EVERY_MS, undefined, { signal: this.signal }).catch(() => {})
      this.signal.throwIfAborted()
      last = await advanceKeys(app, { purpose: this.flags.purpose, by: this.actor })
      moved.push(...last.moved)
    }
    return { ...last, moved }
  }
}

const planText = ({ active, candidate, algorithm, policy, taint }: RotationPlan): string =>
  details({
    'signs now': active ?? 'no key yet: the new one signs at once',
    'signs next': candidate ? `${candidate}, under way` : `a new ${algorithm} key`,
    ...(active && {
      'before it signs': policy.allAttest
        ? 'every verifier attests it'
        : `every verifier attests it, and caches of others have ${policy.cacheAgeS + policy.skewS} s`,
      'old key': `published for ${policy.overlapS} s together with the new one, at least`,
    }),
    tainted: taint ? 'the old key never signs again' : undefined,
  })

function resultText(purpose: string, { kid, moved, waits }: Advance & { kid: string }): string {
  if (moved.some(({ phase }) => phase === 'activate')) return `${mark('ok')} ${purpose}: ${kid} signs`
  return [
    `${mark('ok')} ${purpose}: ${kid} is published`,
    ...waits.map((wait) => `  It waits for ${wait}.`),
    `  Try: tabib keys status --purpose ${purpose}`,
  ].join('\n')
}
