import { isIP } from 'node:net'
import { parseAllDocuments, stringify } from 'yaml'
import * as z from 'zod'
import { addressWithin, type Refusal } from '../../adapters/http/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Residency } from '../../config.ts'
import type { Finding } from '../../finding.ts'
import { raiseIncident } from '../incident/raise.ts'
import { finding } from './judge.ts'
import type { Tenant } from './tenants.ts'

export const EGRESS_MODE = 'billing/FM-21'
const RUNBOOK = 'runbooks/billing/fm-21-cross-border-transfer.md'

/** Whose policy a document is; absent: of a process that serves every tenant. */
const TENANT_ANNOTATION = 'tabib/tenant'

/**
 * Networks that one request may go to: those of the regions that its tenant allows; without a tenant, the platform's
 * own. Undefined, no bounds, only where the configuration names no regions. An unknown tenant has none.
 * @throws TabibError POSTGRES_UNREACHABLE …: a request whose bounds are unknown is not made.
 */
export async function requestNetworks(
  app: { readonly db: Queryable },
  residency: Residency | undefined,
  tenantId: string | undefined,
): Promise<readonly string[] | undefined> {
  if (residency === undefined) return undefined
  if (tenantId === undefined) return residency.platform
  const rows = await app.db.query<{ region: string }>(
    `select region from tabib.tenant where id = $1
     union select region from tabib.tenant_region where tenant_id = $1`,
    [tenantId],
  )
  return networksOf(
    residency,
    rows.map(({ region }) => region),
  )
}

/** Networks that a process may need which works for these tenants: their regions' and the platform's. */
export function processNetworks(residency: Residency, tenants: readonly Tenant[]): string[] {
  const regions = tenants.flatMap(({ allowed }) => allowed)
  return [...new Set([...networksOf(residency, regions), ...residency.platform])]
}

/** A Kubernetes NetworkPolicy (YAML) that lets the selected pods out to these networks and to the cluster's DNS alone. */
export function networkPolicy(
  networks: readonly string[],
  { selector, tenant }: { selector: Record<string, string>; tenant?: string | undefined },
): string {
  const dns = {
    to: [{ namespaceSelector: {}, podSelector: { matchLabels: { 'k8s-app': 'kube-dns' } } }],
    ports: [
      { protocol: 'UDP', port: 53 },
      { protocol: 'TCP', port: 53 },
    ],
  }
  return stringify({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: {
      name: tenant === undefined ? 'tabib-egress' : `tabib-egress-${tenant}`,
      ...(tenant === undefined ? {} : { annotations: { [TENANT_ANNOTATION]: tenant } }),
    },
    spec: {
      podSelector: { matchLabels: selector },
      policyTypes: ['Egress'],
      egress: [
        // An empty list of peers would mean every address.
        ...(networks.length > 0 ? [{ to: networks.map((cidr) => ({ ipBlock: { cidr } })) }] : []),
        dns,
      ],
    },
  })
}

const policySchema = z.looseObject({
  metadata: z.looseObject({ name: z.string(), annotations: z.record(z.string(), z.string()).optional() }),
  spec: z.looseObject({
    policyTypes: z.array(z.string()).optional(),
    egress: z
      .array(
        z.looseObject({
          to: z.array(z.looseObject({ ipBlock: z.looseObject({ cidr: z.string() }).nullish() })).nullish(),
          ports: z.array(z.looseObject({ port: z.union([z.int(), z.string()]).optional() })).nullish(),
        }),
      )
      .nullish(),
  }),
})

/** What kubectl prints: one resource, or a list of them. */
interface Resource {
  kind?: unknown
  items?: Resource[]
}

/** Every way out that the network policies of one file leave open beyond what the tenants allow. */
export function judgePolicies(
  text: string,
  file: string,
  { residency, tenants }: { residency: Residency; tenants: readonly Tenant[] },
): Finding[] {
  const documents = parseResources(text)
  if (documents === undefined) return [open(file, 'it is not YAML, so nothing shows what it lets out')]
  const policies = documents
    .flatMap((document) => (Array.isArray(document?.items) ? document.items : [document]))
    .filter((document) => document?.kind === 'NetworkPolicy')
  if (policies.length === 0) return [open(file, 'it has no NetworkPolicy, so everything may go out')]
  return policies.flatMap((document) => {
    const parsed = policySchema.safeParse(document)
    if (!parsed.success) return [open(file, 'it has a NetworkPolicy that cannot be understood')]
    const { metadata, spec } = parsed.data
    const object = `${file}: NetworkPolicy ${metadata.name}`
    const slug = metadata.annotations?.[TENANT_ANNOTATION]
    const whose = slug === undefined ? tenants : tenants.filter((tenant) => tenant.slug === slug)
    const allowed = processNetworks(residency, whose)
    const rules = spec.egress ?? []
    // Kubernetes takes a policy without types for one of what goes out when it has rules for that.
    const bounds = spec.policyTypes?.includes('Egress') ?? rules.length > 0
    if (!bounds) return [open(object, 'it does not bound what goes out')]
    return rules.flatMap(({ to, ports }) => {
      if (!to?.length) return [open(object, 'one of its rules lets out to every address')]
      return to.flatMap(({ ipBlock, ...selectors }) => {
        if (ipBlock) {
          const { cidr } = ipBlock
          if (allowed.some((network) => cidrWithin(cidr, network))) return []
          const whose = slug ?? 'any tenant'
          return [
            open(object, `it lets out to ${cidr}, which is in no region that ${whose} allows`, { cidr }),
          ]
        }
        if (Object.keys(selectors).length === 0) {
          return [open(object, 'one of its rules names nobody, and Kubernetes may take that for everybody')]
        }
        const isDns = ports?.length && ports.every(({ port }) => port === 53)
        return isDns ? [] : [toPods(object, selectors)]
      })
    })
  })
}

/** The documents of a file; undefined where one of them is no YAML. */
function parseResources(text: string): (Resource | null)[] | undefined {
  try {
    const documents = parseAllDocuments(text)
    if (documents.some(({ errors }) => errors.length > 0)) return undefined
    return documents.map((document) => document.toJS() as Resource | null)
  } catch {
    // An alias of nothing, or one that expands without end.
    return undefined
  }
}

/** Pods have no address that a policy names: they are where their cluster is, unless they hand on to elsewhere. */
const toPods = (object: string, selectors: Record<string, unknown>): Finding =>
  finding({
    id: 'residency/egress-to-pods',
    severity: 'warning',
    object,
    message: `it lets out to pods by ${Object.keys(selectors).sort().join(' and ')}, and nothing shows that these hand nothing on`,
    evidence: selectors,
    fix: 'give those pods a policy of their own and list it below residency.policies, then waive this',
    runbook: RUNBOOK,
  })

/** Opens an incident for ops and compliance, or counts one more attempt at the same place on the open one. */
export async function reportRefusal(
  db: Queryable,
  {
    host,
    address,
    tenantId,
    residency,
  }: Refusal & { tenantId: string | undefined; residency: Residency | undefined },
): Promise<void> {
  const region = Object.entries(residency?.regions ?? {}).find(([, networks]) =>
    addressWithin(address, networks),
  )
  await raiseIncident(db, {
    dedupeKey: `${EGRESS_MODE}:${tenantId ?? 'platform'}:${host}`,
    severity: 'page',
    mode: EGRESS_MODE,
    service: 'billing',
    title: 'A connection out of the allowed regions was refused',
    detail: {
      host,
      address,
      region: region?.[0] ?? null,
      tenantId: tenantId ?? null,
      notify: ['ops', 'compliance'],
    },
    runbook: RUNBOOK,
  })
}

/** Incidents of refused connections that nobody has closed yet. */
export async function openRefusals({ db }: { db: Queryable }): Promise<number> {
  const [row] = await db.query<{ n: number }>(
    `select count(*)::float8 as n from tabib.incident where mode = $1 and state <> 'resolved'`,
    [EGRESS_MODE],
  )
  return row?.n ?? 0
}

function networksOf({ regions }: Residency, names: readonly string[]): string[] {
  return names.flatMap((name) => (Object.hasOwn(regions, name) ? (regions[name] ?? []) : []))
}

function cidrWithin(cidr: string, network: string): boolean {
  const [base = '', prefix] = cidr.split('/')
  const [outer = '', outerPrefix] = network.split('/')
  return (
    isIP(base) !== 0 &&
    isIP(base) === isIP(outer) &&
    Number(prefix) >= Number(outerPrefix) &&
    addressWithin(base, [network])
  )
}

const open = (object: string, message: string, evidence: Record<string, unknown> = {}): Finding =>
  finding({
    id: 'residency/egress-open',
    severity: 'critical',
    object,
    message,
    evidence,
    fix: 'tabib residency egress > egress.yaml && kubectl apply -f egress.yaml',
    runbook: RUNBOOK,
  })
