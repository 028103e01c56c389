import { drillsOf } from '../support/drills.ts'

drillsOf('communication')
