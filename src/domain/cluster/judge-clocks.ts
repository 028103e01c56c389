import type { NtpState } from '../../adapters/ntp/client.ts'
import type { Finding } from '../../finding.ts'
import { type Clock, SKEW_LIMIT_S, skewOf } from './clocks.ts'

/** Says which clocks are wrong, which host keeps none, and what sets them right. */
export function judgeClocks(
  clocks: readonly Clock[],
  { ntp, step }: { ntp: NtpState; step: readonly string[] | undefined },
): Finding[] {
  const { seconds, off, unmeasured } = skewOf(clocks)
  const hosts = clocks.filter(({ name }) => name.startsWith('host '))
  return [
    ...off.map(({ name, host, bySeconds }) =>
      finding('skew', {
        severity: 'error',
        object: name,
        message: `is ${Math.abs(bySeconds).toFixed(3)} s ${bySeconds > 0 ? 'ahead of' : 'behind'} most clocks; ${SKEW_LIMIT_S * 1_000} ms is the limit`,
        evidence: { host, bySeconds },
        fix: step ? 'tabib cluster clocks --step --dry-run' : `ssh ${host} sudo chronyc makestep`,
      }),
    ),
    ...(seconds === undefined
      ? [
          finding('alone', {
            severity: 'warning',
            object: 'this host',
            message: 'there is no other clock to compare with',
            fix: 'tabib doctor',
          }),
        ]
      : []),
    ...unmeasured.map(({ name, why }) =>
      finding('unmeasured', {
        severity: 'warning',
        object: name,
        message: `its clock cannot be told: ${why}`,
        fix: 'tabib doctor',
      }),
    ),
    ...[{ name: 'this host', state: ntp.state, detail: ntp.detail }]
      .concat(
        hosts.flatMap(({ name, ntp: state }) =>
          state === undefined
            ? []
            : [{ name, state: state as NtpState['state'], detail: 'as its processes tell' }],
        ),
      )
      .filter(({ state }) => state !== 'synchronised')
      .map(({ name, state, detail }) =>
        finding('ntp', {
          severity: state === 'unsynchronised' ? 'error' : 'warning',
          object: name,
          message:
            state === 'unsynchronised'
              ? `follows no NTP server: ${detail}`
              : `cannot tell whether it follows NTP: ${detail}`,
          fix:
            state === 'unsynchronised'
              ? 'sudo apt-get install -y chrony'
              : 'look on the host itself: timedatectl, or node_timex_sync_status of its node_exporter',
        }),
      ),
  ]
}

function finding(
  id: string,
  {
    evidence = {},
    fix = null,
    ...one
  }: Pick<Finding, 'severity' | 'object' | 'message'> & Partial<Pick<Finding, 'evidence' | 'fix'>>,
): Finding {
  return {
    id: `clocks/${id}`,
    check: 'cluster clocks',
    ...one,
    evidence,
    fix,
    runbook: 'runbooks/communication/c16-clock-skew.md',
    cacheKey: `clocks/${id}:${one.object}`,
    waived: false,
  }
}
