import { drillsOf } from '../support/drills.ts'

drillsOf('tabib')
