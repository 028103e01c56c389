/** What stands for a value that is not shown. */
export const MASK = '***'

/**
 * A JSON value as it may be shown and stored outside the event: shape, ids, states, amounts and system times stay;
 * whatever else there is becomes `***`. It is an allow-list: a key that nobody thought of is masked, and so is a value
 * under a known key that does not look like an id, a word or a number.
 */
export function redact(value: unknown): unknown {
  return redactUnder('', value, 0)
}

function redactUnder(key: string, value: unknown, depth: number): unknown {
  if (value === null || value === undefined) return null
  if (depth > MAX_DEPTH) return MASK
  if (Array.isArray(value)) return value.map((item) => redactUnder(key, item, depth + 1))
  if (typeof value === 'object') {
    return Object.fromEntries(
      Object.entries(value).map(([name, inner]) => [
        NAME.test(name) ? name : MASK,
        isPersonal(name) ? MASK : redactUnder(name, inner, depth + 1),
      ]),
    )
  }
  return isShown(key, value) ? value : MASK
}

// Whatever lies below what is personal is personal too: a diagnosis has a code, a result a status.
const isPersonal = (key: string): boolean => wordsOf(key).some((word) => PERSONAL.has(word))

function isShown(key: string, value: unknown): boolean {
  const words = wordsOf(key)
  const last = words.at(-1)
  if (last === undefined || isPersonal(key)) return false
  if (TIMES.has(words.join(' '))) return typeof value === 'string' && TIME.test(value)
  if (FIGURES.has(last)) return /^-?\d+(\.\d+)?$/.test(String(value))
  // As long as a phone number or a Tazkira is, a figure under `id` may be one.
  return SHOWN.has(last) && WORD.test(String(value)) && !/^\d{7,}$/.test(String(value))
}

/** Last words of keys whose values are ids, states and figures of the system. */
const SHOWN = new Set([
  'id',
  'ids',
  'uuid',
  'type',
  'kind',
  'status',
  'state',
  'currency',
  'channel',
  'template',
  'version',
  'specversion',
  'source',
  'datacontenttype',
  'tenantid',
  'attempt',
  'attempts',
])

/** Last words of keys whose values are sums and places in line: the only ones that may be long numbers. */
const FIGURES = new Set(['sequence', 'seq', 'count', 'total', 'minor', 'ms', 'bytes'])

/** Times of what a system did; a birthday or a due date is somebody's. */
const TIMES = new Set([
  'time',
  'at',
  'occurred at',
  'created at',
  'updated at',
  'captured at',
  'sent at',
  'started at',
  'ended at',
])

/** A key with one of these words is personal, whatever it ends with: `national_id`, `phoneType`, `diagnosisCode`. */
const PERSONAL = new Set([
  'name',
  'given',
  'family',
  'father',
  'mother',
  'national',
  'tazkira',
  'nid',
  'ssn',
  'passport',
  'tax',
  'licence',
  'license',
  'insurance',
  'phone',
  'mobile',
  'telephone',
  'tel',
  'msisdn',
  'fax',
  'whatsapp',
  'telegram',
  'email',
  'mail',
  'address',
  'street',
  'postal',
  'post',
  'zip',
  'area',
  'geo',
  'lat',
  'lon',
  'ip',
  'birth',
  'born',
  'age',
  'gender',
  'sex',
  'marital',
  'religion',
  'ethnic',
  'blood',
  'hiv',
  'health',
  'medical',
  'diagnosis',
  'diagnoses',
  'icd',
  'snomed',
  'loinc',
  'drug',
  'medication',
  'prescription',
  'allergy',
  'symptom',
  'pregnancy',
  'disability',
  'vital',
  'lab',
  'card',
  'iban',
  'pin',
  'otp',
  'access',
  'password',
  'secret',
  'token',
])

// What nests deeper says nothing to a reader, and could exhaust the stack.
const MAX_DEPTH = 64

const NAME = /^[A-Za-z_$][\w$.-]{0,63}$/
const WORD = /^\/?[A-Za-z0-9][\w.:/-]{0,127}$/
const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})$/

/** `patientId`, `patient_id`, `patient-id` and `PatientID` are the words patient, id. */
function wordsOf(key: string): string[] {
  return key
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .split(/[\s_.$-]+/)
    .filter((word) => word !== '')
    .map((word) => word.toLowerCase())
}
