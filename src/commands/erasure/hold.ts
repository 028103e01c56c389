import { Flags } from '@oclif/core'
import { severe, TabibCommand } from '../../command.ts'
import { planHash } from '../../domain/audit/canonical-json.ts'
import { assertParticipants, placeHold } from '../../domain/erasure/hold.ts'
import { NOT_REMEMBERED, tryToRemember } from '../../domain/erasure/remember.ts'
import { shortName } from '../../domain/erasure/secret.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { patientFlag } from '../../flags.ts'
import { mark } from '../../render.ts'

export default class ErasureHold extends TabibCommand<typeof ErasureHold> {
  static override summary =
    'Place a legal hold: what participants have of a patient is kept until it is released.'
  static override description =
    'What is erased already stays so. A held step is no failure and no acknowledgement: the request stays open, `erasure ' +
    'list` says who holds, and no certificate calls it complete.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --patient <id> --authority "court order 4/1405" --participant attachments --confirm <subject> --reason "asked for by counsel"',
  ]
  static override flags = {
    tenant: Flags.string({
      required: true,
      helpValue: '<tenant>',
      description: 'whose patient it is: slug or id',
    }),
    patient: patientFlag({ required: true }),
    participant: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<name>',
      description: 'what this participant has; may be repeated; all when left out',
    }),
    authority: Flags.string({
      required: true,
      helpValue: '<text>',
      description: 'the case or the law that wants it; nothing about the patient',
    }),
    ...severe,
  }

  async run(): Promise<void> {
    const { tenant, patient, participant, authority } = this.flags
    assertParticipants(participant ?? [])
    const app = await this.openApp()
    const { id: tenantId } = await findTenant(app, tenant)
    const secret = await app.erasureSecret()
    const subject = shortName(secret.subjectHash(tenantId, patient))
    const { reason } = await this.confirmSevere(subject, `Keeping what there is of ${subject}`)
    const target = `erasure:${subject}`
    const participants = participant ?? null
    const details = { targets: [target], planHash: planHash({ subject, participants, authority }), reason }
    const result = await this.mutateAlone(target, details, () =>
      placeHold(
        { db: app.db, secret },
        { tenantId, subjectId: patient, participants, authority, by: this.actor },
      ),
    )
    const remembered = await tryToRemember(app)
    this.succeed({
      result,
      warnings: remembered ? [] : [NOT_REMEMBERED],
      text: () =>
        `${mark('ok')} hold ${result.id}: ${result.participants?.join(', ') ?? 'all participants'} keep what they have of ${subject}`,
    })
  }
}
