import { lookup as systemLookup } from 'node:dns'
import { once } from 'node:events'
import { BlockList, createConnection, isIP, type LookupFunction, type Socket } from 'node:net'
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
  /** Asked for each request, since certificates are renewed: whom to believe, and who asks. */
  tls?: (() => Promise<Tls>) | undefined
}

/** PEM texts: the authority to believe instead of the system's, and a client's own certificate. */
export interface Tls {
  ca?: string | undefined
  cert?: string | undefined
  key?: string | undefined
}

/** Opens a TCP connection for a protocol that is no HTTP. */
export type Connect = (to: { host: string; port: number; timeoutMs: number }) => Promise<Socket>

/** The only way out. */
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
  /** The same bounds for what is no HTTP; rejects with TabibError EGRESS_REFUSED likewise. */
  connectWithin(bounds: Bounds): Connect
}

/** Opens nothing, and loads nothing, until it is used. */
export function openHttp({ lookup = systemLookup as LookupFunction }: HttpOptions = {}): Http {
  const agents = new Map<string, Promise<Agent>>()
  const agentFor = (networks: readonly string[] | undefined, tls: Tls | undefined): Promise<Agent> => {
    const key = JSON.stringify([networks, tls])
    const agent = agents.get(key) ?? guardedAgent(networks, lookup, tls)
    agents.set(key, agent)
    return agent
  }
  return {
    within: (bounds) => async (input, init) => {
      const [allowed, tls] = await Promise.all([bounds.networks(), bounds.tls?.()])
      if (allowed === undefined && tls === undefined) return fetch(input, init)
      // Of the same package as the agent: Node's own fetch may be of a version that does not understand it.
      const { fetch: guarded } = (await import('undici')) as unknown as { fetch: Fetch }
      const dispatcher = await agentFor(allowed, tls)
      try {
        return await guarded(input, { ...init, dispatcher } as object)
      } catch (error) {
        const { cause } = error as Error
        if (!(cause instanceof TabibError)) throw error
        bounds.onRefused(cause.context as unknown as Refusal)
        throw cause
      }
    },
    connectWithin: (bounds) => async (to) => {
      const allowed = await bounds.networks()
      try {
        return await connectTo(to, allowed === undefined ? undefined : guardOf(allowed, lookup))
      } catch (error) {
        if (error instanceof TabibError) bounds.onRefused(error.context as unknown as Refusal)
        throw error
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

interface Guard {
  /** Why a host may not be connected to that is an address itself; such a one is not looked up. */
  refusalOfLiteral(host: string): TabibError | undefined
  /** Answers with an error for a name that leads outside. */
  lookup: LookupFunction
}

function guardOf(networks: readonly string[], lookup: LookupFunction): Guard {
  const refusalOf = (host: string, addresses: string[]): TabibError | undefined => {
    // A name with an address outside is refused whole: its next answer may hold only that one.
    const outside = addresses.find((address) => !addressWithin(address, networks))
    return outside === undefined ? undefined : refused({ host, address: outside })
  }
  return {
    refusalOfLiteral: (host) => (isIP(host) === 0 ? undefined : refusalOf(host, [host])),
    lookup: (host, options, done) =>
      lookup(host, options, (error, answer, family) => {
        if (error) return done(error, answer, family)
        const addresses = typeof answer === 'string' ? [answer] : answer.map(({ address }) => address)
        done(refusalOf(host, addresses) ?? null, answer, family)
      }),
  }
}

async function guardedAgent(
  networks: readonly string[] | undefined,
  lookup: LookupFunction,
  tls: Tls = {},
): Promise<Agent> {
  const { Agent, buildConnector } = await import('undici')
  if (networks === undefined) return new Agent({ connect: { ...tls, lookup } })
  const guard = guardOf(networks, lookup)
  const connect = buildConnector({ ...tls, lookup: guard.lookup })
  return new Agent({
    connect(options, done) {
      // The URL parser has made numeric forms (0x7f.1, 2130706433) dotted by now.
      const refusal = guard.refusalOfLiteral(options.hostname.replace(/^\[|\]$/g, ''))
      if (refusal) done(refusal, null)
      else connect(options, done)
    },
  })
}

async function connectTo(
  { host: named, port, timeoutMs }: Parameters<Connect>[0],
  guard: Guard | undefined,
): Promise<Socket> {
  // As of HTTP: what is no name in another writing becomes an address.
  const host = new URL(
    `http://${named.includes(':') && !named.startsWith('[') ? `[${named}]` : named}`,
  ).hostname.replace(/^\[|\]$/g, '')
  const refusal = guard?.refusalOfLiteral(host)
  if (refusal) throw refusal
  const socket = createConnection({ host, port, ...(guard && { lookup: guard.lookup }) })
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(timeoutMs) })
    return socket
  } catch (error) {
    socket.destroy()
    throw error
  }
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
