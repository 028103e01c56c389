import { Flags } from '@oclif/core'
import { durationFlag } from './command.ts'
import { ORIGINS, type QuarantineFilter } from './domain/dlq/list.ts'
import { uuidFlag } from './flags.ts'
import { SERVICES, type Service } from './service.ts'

/** Which events in quarantine are meant: the same in every `dlq` command. */
export const quarantineFlags = {
  service: Flags.option({ options: SERVICES })({
    description: 'only events of this service',
    helpGroup: 'FILTER',
  }),
  origin: Flags.option({ options: ORIGINS })({
    description: 'only events that could not be published (outbox) or handled (inbox)',
    helpGroup: 'FILTER',
  }),
  consumer: Flags.string({
    helpValue: '<name>',
    description: 'only what this consumer gave up on',
    helpGroup: 'FILTER',
  }),
  type: Flags.string({
    helpValue: '<type>',
    description: 'only events of this type, or whose type ends so',
    helpGroup: 'FILTER',
  }),
  tenant: uuidFlag({
    description: 'only events of this tenant',
    helpGroup: 'FILTER',
  }),
  fingerprint: Flags.string({
    helpValue: '<fingerprint>',
    description: 'only events that failed alike',
    helpGroup: 'FILTER',
  }),
  'older-than': durationFlag({ description: 'only events in quarantine for longer', helpGroup: 'FILTER' }),
}

/** What failed, by the word it is stored under; `discard` has none, since its `--reason` says why it is done. */
export const reasonFilter = Flags.string({
  helpValue: '<word>',
  description: 'only events in quarantine for this reason, such as handler-failed',
  helpGroup: 'FILTER',
})

/** The filter that the flags say. */
export function quarantineFilter(flags: {
  service?: Service | undefined
  origin?: (typeof ORIGINS)[number] | undefined
  consumer?: string | undefined
  type?: string | undefined
  tenant?: string | undefined
  fingerprint?: string | undefined
  'older-than'?: number | undefined
}): QuarantineFilter {
  const { service, origin, consumer, type, tenant, fingerprint } = flags
  return { service, origin, consumer, type, tenant, fingerprint, olderThanMs: flags['older-than'] }
}
