import { drillsOf } from '../support/drills.ts'

drillsOf('virtual-care')
