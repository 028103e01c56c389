import { misplaced } from '../../domain/residency/check.ts'
import { counted } from '../../render.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-22',
  kind: 'guard',
  title: 'Patient data is, or disaster recovery would put it, in a wrong region',
  severity: 'page',
  detect: {
    metric: 'billing_residency_misplaced',
    measure: async (app) => {
      // Where nothing is known of regions, nothing can be amiss or in order.
      if (app.config.residency === undefined) return { value: undefined }
      const { count, ...evidence } = await misplaced(app)
      return { value: count, evidence }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${counted(count, 'member, backup or key is', 'members, backups or keys are')} where not every tenant allows, or nothing believable says where`
        : 'members, backups and their keys are where every tenant allows',
    entails: [],
  },
  mitigate: { command: ['residency', 'check'] },
  drill: {
    // A disaster: of three standby clusters one is at home, one abroad, and one does not say where it is.
    inject: async (world, guarded) => {
      await world.tenant()
      const clusters = await Promise.all([
        world.standbyCluster({ scope: 'home', region: 'AF' }),
        world.standbyCluster({ scope: 'abroad', region: 'abroad' }),
        world.standbyCluster({ scope: 'untagged' }),
      ])
      await world.configure({
        residency: {
          regions: { AF: [], abroad: [] },
          platform: ['127.0.0.1/32'],
          clusters: Object.fromEntries(clusters.map(({ scope, urls }) => [scope, { patroni: urls }])),
          ...(await world.manifests()),
        },
      })
      await world.tabib(['residency', 'manifest', 'nightly', '--region', 'AF', '--key-region', 'AF'])
      for (const cluster of clusters) {
        if (!guarded || (await passes(world, cluster.scope))) await cluster.promote()
      }
      return Object.assign(clusters, {
        async [Symbol.asyncDispose]() {
          await Promise.all(clusters.map((cluster) => cluster[Symbol.asyncDispose]()))
        },
      })
    },
    alarms: true,
    verify: async (_world, fault) => {
      const clusters = fault as unknown as Awaited<ReturnType<World['standbyCluster']>>[]
      const lost = clusters.map(async ({ scope, leads }) => {
        if (scope === 'home') return (await leads()) ? [] : ['the cluster that may take over did not']
        return (await leads()) ? [`the cluster "${scope}" took over`] : []
      })
      return (await Promise.all(lost)).flat()
    },
  },
})

/** Asks the gate as an operator does whose servers are slow to answer: the drill is of what is answered. */
async function passes(world: World, scope: string): Promise<boolean> {
  const { exitCode } = await world.tabib(['residency', 'gate', '--target', scope, '--answer-within', '10s'])
  return exitCode === 0
}
