import type { Participant, ParticipantId } from './participant.ts'
import { attachments } from './participants/attachments.ts'
import { billing } from './participants/billing.ts'
import { cache } from './participants/cache.ts'
import { communication } from './participants/communication.ts'
import { dispatchLog } from './participants/dispatch-log.ts'
import { events } from './participants/events.ts'
import { statements } from './participants/statements.ts'
import { virtualCare } from './participants/virtual-care.ts'

/**
 * In the order of their stages: first where patients come from, so that nothing new of them is made; last the keys of what
 * was sent, and the caches, which others fill.
 */
export const PARTICIPANTS: readonly Participant[] = [
  virtualCare,
  billing,
  communication,
  dispatchLog,
  attachments,
  statements,
  events,
  cache,
]

export type { ParticipantId }

export const findParticipant = (id: string): Participant | undefined =>
  PARTICIPANTS.find((one) => one.id === id)
