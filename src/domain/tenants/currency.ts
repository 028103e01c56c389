// Withdrawn from ISO 4217 while the runtime's data still has them (CUC 2021, HRK 2023, SLL and ZWL 2024, ANG 2025,
// BGN 2026), and units of account in which nobody is paid.
const NOT_PAYABLE = new Set(['CUC', 'HRK', 'SLL', 'ZWL', 'ANG', 'BGN', 'XDR', 'XSU'])

/** Currencies that a tenant may charge in: the runtime's active ISO 4217 codes, less those nobody can be paid in. */
export const PAYABLE_CURRENCIES: readonly string[] = Intl.supportedValuesOf('currency').filter(
  (code) => !NOT_PAYABLE.has(code),
)
