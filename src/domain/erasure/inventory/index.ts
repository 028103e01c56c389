import { billing } from './billing.ts'
import { communication } from './communication.ts'
import { columnsOf, type Inventory, type InventoryItem, type Keeping, type PlaceInventory } from './item.ts'
import { tabib } from './tabib.ts'
import { virtualCare } from './virtual-care.ts'

/** What the platform stores, one file a service. */
export const INVENTORY: Readonly<Record<string, Inventory>> = {
  'virtual-care': virtualCare,
  billing,
  communication,
  tabib,
}

/** The whole inventory as a list, service by service; needs no server. */
export function listInventory(): InventoryItem[] {
  return Object.entries(INVENTORY).flatMap(([service, inventory]) => {
    const { tables, streams, caches, stores } = inventory
    const place =
      (kind: InventoryItem['kind']) =>
      ([object, one]: [string, PlaceInventory]): InventoryItem => ({
        ...{ service, kind, object, class: one.class },
        ...keepingOf(one),
      })
    return [
      ...Object.entries(tables).flatMap(([name, table]) => {
        const columns = [...columnsOf(table)].flatMap(([column, kind]): InventoryItem[] =>
          kind === 'json'
            ? Object.entries(table.json![column]!).map(([path, ofPath]) => ({
                ...{ service, kind: 'path', object: `${name}.${column}: ${path}`, class: ofPath },
                ...keepingOf(table),
              }))
            : [{ service, kind: 'column', object: `${name}.${column}`, class: kind, ...keepingOf(table) }],
        )
        return columns
      }),
      ...Object.entries(streams).map(place('stream')),
      ...Object.entries(caches).map(place('cache')),
      ...Object.entries(stores).map(place('store')),
    ]
  })
}

const keepingOf = ({ retention, hold, erasure }: Keeping): Keeping => ({
  retention,
  ...(hold === undefined ? {} : { hold }),
  ...(erasure === undefined ? {} : { erasure }),
})
