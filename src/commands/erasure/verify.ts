import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { certificateText, type Statement, verifyCertificate } from '../../domain/erasure/certificate.ts'
import { TabibError } from '../../errors.ts'
import { mark } from '../../render.ts'
import { readTextFile } from '../../text-file.ts'

export default class ErasureVerify extends TabibCommand<typeof ErasureVerify> {
  static override summary = 'Verify certificates of erasures, without any server, by the public keys.'
  static override description =
    'Exit 1 for a certificate that says that something is open, 4 for one that is not believed.'
  static override examples = ['<%= config.bin %> <%= command.id %> certificate.jws --jwks keys.json']
  static override args = {
    file: Args.string({ required: true, description: 'certificates, one a line' }),
  }
  static override flags = {
    jwks: Flags.string({
      required: true,
      helpValue: '<file>',
      description: 'the JWK Set, as keys jwks --purpose erasure-certificate printed it when they were made',
    }),
  }

  async run(): Promise<void> {
    const jwks = parseJson(await readTextFile(this.flags.jwks), this.flags.jwks)
    const lines = (await readTextFile(this.args.file)).split('\n').map((line) => line.trim())
    const certificates = lines.filter((line) => line !== '')
    if (certificates.length === 0) throw new TabibError('USAGE', `${this.args.file} has no certificate in it`)
    const statements: Statement[] = []
    for (const certificate of certificates) statements.push(await verifyCertificate(certificate, jwks))
    this.succeed({
      result: statements,
      status: statements.every(({ outcome }) => outcome === 'complete') ? 'ok' : 'findings',
      text: () =>
        statements
          .map(
            (one) =>
              `${certificateText(one)}\n${mark('ok')} signed ${new Date(one.iat * 1_000).toISOString()}`,
          )
          .join('\n\n'),
    })
  }
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new TabibError('USAGE', `${path} is not JSON`, { cause })
  }
}
