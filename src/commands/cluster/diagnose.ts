import { TabibCommand } from '../../command.ts'
import { type Candidate, type Diagnosis, diagnose, lossText } from '../../domain/cluster/judge.ts'
import { observeCluster } from '../../domain/cluster/observe.ts'
import { fails } from '../../findings-report.ts'
import { mark, table } from '../../render.ts'

export default class ClusterDiagnose extends TabibCommand<typeof ClusterDiagnose> {
  static override summary = 'Who leads the Patroni cluster, who would, why not the others, and what to paste.'
  static override description =
    'Reads every member’s REST API and the store, changes nothing. For each member that does not lead: whether Patroni ' +
    'would let it, why not in words, and what would be lost with it in bytes of WAL and in transactions. Exit 1 when ' +
    'something needs a hand.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    'TABIB_PATRONI_URL=http://10.20.0.11:8008 TABIB_ETCD_URL=http://10.20.0.11:2379 <%= config.bin %> <%= command.id %> --json',
  ]

  async run(): Promise<void> {
    const diagnosis = diagnose(await observeCluster(await this.openApp()))
    this.succeed({
      result: diagnosis,
      status: diagnosis.findings.some(fails) ? 'findings' : 'ok',
      text: () => diagnosisText(diagnosis),
    })
  }
}

function diagnosisText({ scope, verdict, says, candidates, findings, command }: Diagnosis): string {
  const led = verdict === 'led' ? (findings.some(fails) ? 'warning' : 'ok') : 'failed'
  return [
    `${mark(led)} ${scope}: ${says}`,
    ...(candidates.length === 0
      ? []
      : ['', table(candidates.map(line), ['member', 'would lead', 'lost', 'why not'])]),
    ...(findings.length === 0 ? [] : ['']),
    ...findings.flatMap(({ severity, object, message, fix }) => [
      `${mark(severity === 'info' || severity === 'warning' ? 'warning' : 'failed')} ${object}: ${message}`,
      ...(fix === null || fix === command ? [] : [`    ${fix}`]),
    ]),
    ...(command === undefined ? [] : ['', 'Paste:', `  ${command}`]),
  ].join('\n')
}

const line = (candidate: Candidate) => ({
  member: candidate.name,
  'would lead': candidate.wouldLead ? 'yes' : candidate.canBeMade ? 'if made to' : 'no',
  lost: candidate.canBeMade ? lossText(candidate) : null,
  'why not': candidate.whyNot.join('; ') || null,
})
