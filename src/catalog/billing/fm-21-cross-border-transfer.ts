import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { openRefusals } from '../../domain/residency/egress.ts'
import { TabibError } from '../../errors.ts'
import { counted } from '../../render.ts'
import { failureMode } from '../failure-mode.ts'

// Two regions on one machine.
const HERE = '127.0.0.1'
const ABROAD = '127.0.0.2'

export default failureMode({
  id: 'billing/FM-21',
  kind: 'guard',
  title: 'Data was about to leave the regions that a tenant allows',
  severity: 'page',
  detect: {
    metric: 'billing_egress_refused',
    measure: async (app) => {
      const count = await openRefusals(app)
      // Where nothing is known of regions nothing is refused, and that none was says nothing.
      return { value: count === 0 && app.config.residency === undefined ? undefined : count }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${counted(count, 'open incident')} of connections that were refused, since they led out of the allowed regions`
        : 'no connection out of the allowed regions was tried, or each was looked into',
    entails: [],
  },
  mitigate: { worker: 'pager', command: ['residency', 'check'] },
  drill: {
    // A provider of a tenant moves abroad: it is asked there directly, and where it used to be it sends people on.
    inject: async (world, guarded) => {
      const abroad = await listen(ABROAD)
      const moved = await listen(HERE, abroad.url)
      const regions = { AF: [`${HERE}/32`], abroad: [`${ABROAD}/32`] }
      await world.configure(guarded ? { residency: { regions } } : {})
      const fetch = world.app.fetch(await world.tenant())
      for (const { url } of [abroad, moved]) {
        await fetch(url, { method: 'POST', body: 'a statement' }).catch((error) => {
          if (!(error instanceof TabibError && error.code === 'EGRESS_REFUSED')) throw error
        })
      }
      return Object.assign(abroad, {
        async [Symbol.asyncDispose]() {
          await Promise.all([abroad, moved].map((one) => one.close()))
        },
      })
    },
    alarms: true,
    verify: async (_world, fault) => {
      const { connections } = fault as unknown as Listener
      return connections > 0 ? [`${connections} connections reached ${ABROAD}`] : []
    },
  },
})

interface Listener {
  url: string
  connections: number
  close(): Promise<void>
}

/** Takes whatever it is sent, or sends people on. */
function listen(address: string, sendsTo?: string): Promise<Listener> {
  const server = createServer((_request, response) => {
    response
      .writeHead(sendsTo === undefined ? 204 : 307, sendsTo === undefined ? {} : { location: sendsTo })
      .end()
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, address, () => {
      const { port } = server.address() as AddressInfo
      const listener: Listener = {
        url: `http://${address}:${port}/`,
        connections: 0,
        close: () =>
          new Promise((closed) => {
            server.close(() => closed())
            server.closeAllConnections()
          }),
      }
      server.on('connection', () => {
        listener.connections += 1
      })
      resolve(listener)
    })
  })
}
