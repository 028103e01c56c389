import type { Nats } from '../../adapters/nats/client.ts'
import type { ParticipantId } from './participant.ts'

const SUBJECT = 'tabib.erasure.step'

/** Where participants are told what to do. Only a messenger: what is to be done stands in `tabib.erasure_step`. */
export const STEP_STREAM = {
  name: 'tabib_erasure_steps',
  subjects: [`${SUBJECT}.*`],
  duplicate_window: 120 * 1_000_000_000,
  max_age: 7 * 86_400 * 1_000_000_000,
}

/** One step as it travels: ids alone, nothing of the subject. */
export interface StepMessage {
  requestId: string
  tenantId: string
  participant: ParticipantId
  round: number
}

export const stepSubject = (participant: string): string => `${SUBJECT}.${participant}`

/** A participant's durable in the stream. */
export const stepDurable = (participant: string): string => `erasure-${participant}`

/** Tells a participant. A repeated attempt is a message of its own: the stream may have lost the one before. */
export async function sendStep(
  { nats }: { nats: Nats },
  step: StepMessage & { attempt: number },
): Promise<void> {
  const { attempt, ...message } = step
  await nats.store({
    subject: stepSubject(step.participant),
    messageId: `${step.requestId}:${step.participant}:${step.round}:${attempt}`,
    headers: new Map(),
    payload: Buffer.from(JSON.stringify(message)),
  })
}
