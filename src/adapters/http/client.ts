import { lookup as systemLookup } from 'node:dns'
import { BlockList, isIP, type LookupFunction } from 'node:net'
import type { Agent } from 'undici'
import { TabibError } from '../../errors.ts'

/** The WHATWG fetch, whatever guards it. */
export type Fetch = typeof globalThis.fetch

/** A connection that was refused before it was made. */
export interface Refusal {
  /** As the URL or the redirect named it. */
  host: string
  /** Where it would have gone. */
  address: string
}

export interface HttpOptions {
  /** How names are resolved: as the system does, when left out. */
  lookup?: LookupFunction | undefined
}

/** What bounds a fetch. */
export interface Bounds {
  /** Asked for each request: networks as CIDR; undefined for no bounds at all. */
  networks(): Promise<readonly string[] | undefined>
  /** Told of every request that was refused, before it fails. */
  onRefused(refusal: Refusal): void
}

/** The only way out by HTTP. */
export interface Http extends AsyncDisposable {
  /**
   * A fetch that connects to addresses within bounds alone. An address is judged as its socket is opened, and it is that
   * very address that is connected to: neither a redirect nor a name that answers differently the next time leads
   * elsewhere. A connection that was made under other networks is not used again.
   *
   * The fetch rejects with TabibError EGRESS_REFUSED for an address outside. It takes a URL and what belongs to it, no
   * `Request`: that class is Node's own, and within bounds another version of it is at work.
   */
  within(bounds: Bounds): Fetch
}

/** Opens nothing, and loads nothing, until it is used. */
export function openHttp({ lookup = systemLookup as LookupFunction }: HttpOptions = {}): Http {
  const agents = new Map<string, Promise<Agent>>()
  const agentFor = (networks: readonly string[]): Promise<Agent> => {
    const key = networks.join()
    const agent = agents.get(key) ?? guardedAgent(networks, lookup)
    agents.set(key, agent)
    return agent
  }
  return {
    within: (bounds) => async (input, init) => {
      const allowed = await bounds.networks()
      if (allowed === undefined) return fetch(input, init)
      // Of the same package as the agent: Node's own fetch may be of a version that does not understand it.
      const { fetch: guarded } = (await import('undici')) as unknown as { fetch: Fetch }
      const dispatcher = await agentFor(allowed)
      try {
        return await guarded(input, { ...init, dispatcher } as object)
      } catch (error) {
        const { cause } = error as Error
        if (!(cause instanceof TabibError)) throw error
        bounds.onRefused(cause.context as unknown as Refusal)
        throw cause
      }
    },
    async [Symbol.asyncDispose]() {
      await Promise.allSettled([...agents.values()].map(async (agent) => (await agent).destroy()))
    },
  }
}

/** Whether an address lies in one of the networks. An IPv4 address written as IPv6 (RFC 4291 section 2.5.5.2) is itself. */
export function addressWithin(address: string, networks: readonly string[]): boolean {
  const list = new BlockList()
  for (const network of networks) {
    const [base = '', prefix] = network.split('/')
    list.addSubnet(base, Number(prefix), isIP(base) === 6 ? 'ipv6' : 'ipv4')
  }
  return list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

/** Whether two networks (CIDR) have an address in common: then one lies within the other. */
export function networksOverlap(one: string, other: string): boolean {
  const baseOf = (network: string) => network.slice(0, network.indexOf('/'))
  return addressWithin(baseOf(one), [other]) || addressWithin(baseOf(other), [one])
}

async function guardedAgent(networks: readonly string[], lookup: LookupFunction): Promise<Agent> {
  const { Agent, buildConnector } = await import('undici')
  const refusalOf = (host: string, addresses: string[]): TabibError | undefined => {
    // A name with an address outside is refused whole: its next answer may hold only that one.
    const outside = addresses.find((address) => !addressWithin(address, networks))
    return outside === undefined ? undefined : refused({ host, address: outside })
  }
  const connect = buildConnector({
    lookup: (host, options, done) =>
      lookup(host, options, (error, answer, family) => {
        if (error) return done(error, answer, family)
        const addresses = typeof answer === 'string' ? [answer] : answer.map(({ address }) => address)
        done(refusalOf(host, addresses) ?? null, answer, family)
      }),
  })
  return new Agent({
    connect(options, done) {
      // A literal address is not looked up. The URL parser has made numeric forms (0x7f.1, 2130706433) dotted by now.
      const host = options.hostname.replace(/^\[|\]$/g, '')
      const refusal = isIP(host) === 0 ? undefined : refusalOf(host, [host])
      if (refusal) done(refusal, null)
      else connect(options, done)
    },
  })
}

const refused = ({ host, address }: Refusal) =>
  new TabibError(
    'EGRESS_REFUSED',
    `${address === host ? host : `${host} is at ${address}, which`} is outside the networks that this traffic may go to`,
    {
      suggestions: ['tabib residency egress', 'tabib residency check'],
      ref: 'runbooks/billing/fm-21-cross-border-transfer.md',
      context: { host, address },
    },
  )
