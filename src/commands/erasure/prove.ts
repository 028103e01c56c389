import { writeFile } from 'node:fs/promises'
import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { certificateText, shortSubject, signCertificate } from '../../domain/erasure/certificate.ts'
import { findSubject, stateErasures } from '../../domain/erasure/prove.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'
import { openProgress } from '../../progress.ts'

export default class ErasureProve extends TabibCommand<typeof ErasureProve> {
  static override summary =
    'A signed certificate that an erasure is complete, or what it is not complete for.'
  static override description =
    `Reads again everything that the platform stores of the tenant in search of the subject's identifiers, with made-up ones
planted to measure how many it would find, and puts together what every participant did. The certificate (a JWS) names the
subject by keyed hash alone and is verified without any server: erasure verify.

While anything is open no certificate says "complete": exit 5, and what is open. With --interim one is signed that says so.
Certificates are signed by the active key of the purpose erasure-certificate.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> <request> --file certificate.jws',
    '<%= config.bin %> <%= command.id %> subject-1f2e3d4c5b6a --tenant herat-markaz',
    '<%= config.bin %> <%= command.id %> <request> <request> --interim --json',
  ]
  static override args = {
    erasure: Args.string({
      multiple: true,
      required: true,
      description: 'a request, a subject as erasure list names it, or with --tenant a patient’s id',
    }),
  }
  static override flags = {
    tenant: Flags.string({ helpValue: '<tenant>', description: "the subjects' tenant: slug or id" }),
    file: Flags.string({ helpValue: '<file>', description: 'write the certificates there, one a line' }),
    interim: Flags.boolean({ description: 'sign what there is although something is open; exit 1' }),
  }

  async run(): Promise<void> {
    const { tenant, file, interim } = this.flags
    const app = await this.openApp()
    const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
    const subjects = []
    for (const named of this.args.erasure) subjects.push(await findSubject(app, { named, tenantId }))
    const progress = openProgress({ quiet: this.flags.quiet })
    const startedAt = performance.now()
    const statements = await stateErasures(
      {
        db: app.db,
        nats: app.config.natsUrl === undefined ? undefined : app.nats,
        redis: { cache: app.config.redisCacheUrl, queue: app.config.redisUrl },
        attachments: app.attachments,
        erasureSecret: app.erasureSecret,
      },
      {
        subjects,
        version: this.config.version,
        context: app.config.context,
        signal: this.signal,
        onProgress: (...at) => {
          if (performance.now() - startedAt > QUIET_MS) progress.at(...at)
        },
      },
    )
    progress.end()
    const unfinished = statements.filter(({ outcome }) => outcome === 'open')
    if (unfinished.length > 0 && !interim) throw stillOpen(unfinished)
    const certificates: Awaited<ReturnType<typeof signCertificate>>[] = []
    for (const statement of statements) certificates.push(await signCertificate(app, statement))
    if (file !== undefined) {
      await writeFile(file, `${certificates.map(({ certificate }) => certificate).join('\n')}\n`)
    }
    this.succeed({
      result: certificates,
      status: unfinished.length > 0 ? 'findings' : 'ok',
      text: () =>
        certificates
          .map(({ certificate, statement }) =>
            [certificateText(statement), ...(file === undefined ? ['', certificate] : [`  in ${file}`])].join(
              '\n',
            ),
          )
          .join('\n\n'),
    })
  }
}

type Unsigned = Awaited<ReturnType<typeof stateErasures>>[number]

function stillOpen(statements: readonly Unsigned[]): TabibError {
  const open = statements.flatMap(({ subject, open }) =>
    open.map((one) => ({ subject: shortSubject(subject), ...one })),
  )
  const lines = open.map(({ subject, what, detail }) => `  ${subject} ${what}: ${detail}`)
  return new TabibError('ERASURE_OPEN', `not complete, so nothing is signed:\n${lines.join('\n')}`, {
    suggestions: [
      ...new Set(open.flatMap(({ fix }) => (fix === null ? [] : [fix]))),
      'the same command with --interim, for a certificate that says what is open',
    ],
    ref: 'runbooks/communication/c15-erasure-partial.md',
    context: { open },
  })
}

/** A small platform is read before anybody wonders. */
const QUIET_MS = 2_000
