import { drillsOf } from '../support/drills.ts'

drillsOf('sync')
