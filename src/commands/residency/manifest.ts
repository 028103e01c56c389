import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { activeKey } from '../../domain/keys/sign.ts'
import { requireManifests, requireResidency } from '../../domain/residency/gate.ts'
import {
  assertLabel,
  MANIFEST_PURPOSE,
  type Manifest,
  writeManifest,
} from '../../domain/residency/manifest.ts'
import { readTenancy, tenantSetHash } from '../../domain/residency/tenants.ts'
import { TabibError } from '../../errors.ts'
import { counted, mark } from '../../render.ts'

export default class ResidencyManifest extends TabibCommand<typeof ResidencyManifest> {
  static override summary =
    'Sign the manifest of a backup that was just taken: where it lies, and whose data it is.'
  static override description =
    'Run by whatever takes backups, right after one. Writes <label>.manifest.jws into residency.manifests; ' +
    'anybody who has the public keys can verify it with no server. The active key of purpose backup-manifest signs.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 20261124-030000F --region af-herat --key-region af-kabul',
  ]
  static override args = { label: Args.string({ required: true, description: "the backup's own name" }) }
  static override flags = {
    region: Flags.string({ required: true, helpValue: '<region>', description: 'where the backup lies' }),
    'key-region': Flags.string({
      required: true,
      helpValue: '<region>',
      description: 'where the key lies that it is encrypted with',
    }),
  }

  async run(): Promise<void> {
    const { label } = this.args
    const { region, 'key-region': keyRegion } = this.flags
    assertLabel(label)
    const app = await this.openApp()
    const residency = requireResidency(app.config)
    for (const given of [region, keyRegion]) {
      if (Object.hasOwn(residency.regions, given)) continue
      const known = Object.keys(residency.regions).join(', ')
      throw new TabibError('NOT_FOUND', `no region "${given}"; there are ${known}`)
    }
    const { folder } = requireManifests(residency)
    const [keyStore, { key }] = await Promise.all([
      app.keyStore(),
      activeKey(app, { purpose: MANIFEST_PURPOSE }),
    ])
    const { tenants, systemIdentifier, now } = await readTenancy(app)
    const manifest: Manifest = {
      label,
      systemIdentifier,
      region,
      keyRegion,
      tenantSetHash: tenantSetHash(tenants),
      iat: Math.floor(now.getTime() / 1_000),
    }
    const { path } = await this.mutate({ targets: [`backup:${label}`], tenantCount: tenants.length }, () =>
      writeManifest({ keyStore }, { folder, key, manifest }),
    )
    this.succeed({
      result: { path, manifest },
      text: () => `${mark('ok')} ${path}, for ${counted(tenants.length, 'tenant')}`,
    })
  }
}
