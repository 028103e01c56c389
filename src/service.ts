/** The three services, by the id that commands, the catalog and subjects use. */
export const SERVICES = ['virtual-care', 'billing', 'communication'] as const
export type Service = (typeof SERVICES)[number]

/** Postgres schema of a service: `virtual_care`, `billing`, `communication`. */
export const schemaOf = (service: Service): string => service.replace('-', '_')

/** Prefix of a service's metrics, as the specification spells them: `vcare`, `billing`, `communication`. */
export const metricPrefixOf = (service: Service): string => (service === 'virtual-care' ? 'vcare' : service)

/** The streams of a service: events, and dead letters in one of their own (overlapping subjects are refused). */
export const eventStreamOf = (service: Service): string => `${service}-evt`
export const deadLetterStreamOf = (service: Service): string => `${service}-dlq`
