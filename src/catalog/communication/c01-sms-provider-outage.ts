import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C01',
  kind: 'alert',
  title: 'The SMS provider fails more than a fifth of its messages',
  severity: 'page',
})
