import { TabibCommand } from '../../command.ts'
import { compareRevocations } from '../../domain/keys/remember.ts'
import { keysStatus, type PurposeStatus } from '../../domain/keys/status.ts'
import { purposeFlag } from '../../flags.ts'
import { mark } from '../../render.ts'

export default class KeysStatus extends TabibCommand<typeof KeysStatus> {
  static override summary = 'Who signs, what a rotation waits for, which verifiers hold the keys.'
  static override description = 'Exits 1 when somebody should see to something.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --purpose join-token --json',
  ]
  static override flags = { purpose: purposeFlag() }

  async run(): Promise<void> {
    const app = await this.openApp()
    const { maxAgeS } = app.config.keys
    // NATS that is away hides nothing that this database says.
    const remembered =
      app.config.natsUrl === undefined ? undefined : await compareRevocations(app).catch(() => undefined)
    const result = await keysStatus(app, { purpose: this.flags.purpose, maxAgeS, ...remembered })
    this.succeed({
      result,
      status: result.some(({ problems }) => problems.length > 0) ? 'findings' : 'ok',
      text: () =>
        result.map(statusText).join('\n') ||
        `there is no signing key yet; next: tabib keys rotate --purpose ${this.flags.purpose ?? '<name>'}`,
    })
  }
}

function statusText({ purpose, active, algorithm, ageS, ...rest }: PurposeStatus): string {
  const { rotation, draining, verifiers, undestroyed, problems } = rest
  const days = Math.floor((ageS ?? 0) / 86_400)
  const signs = active ? `${active} signs (${algorithm}, ${days} days old)` : 'no key signs'
  const current = verifiers.filter(({ holds }) => holds === 'current').length
  return [
    `${mark(problems.length > 0 ? 'failed' : 'ok')} ${purpose}: ${signs}`,
    ...problems.map((problem) => `    ${problem}`),
    ...(rotation ? [`  ${rotation.kid} is to sign next, phase ${rotation.phase}`] : []),
    ...(rotation?.waits ?? []).map((wait) => `    waits for ${wait}`),
    ...draining.map(({ kid, leftS }) => `  ${kid} drains, retired in ${leftS} s`),
    ...undestroyed.map(({ kid, store }) => `  ${kid} has ended; its private half still lies in ${store}`),
    `  ${current} of ${verifiers.length} verifiers hold the published keys`,
  ].join('\n')
}
