import type { JWK } from 'jose'

/** The public members of a JWK (RFC 7518 section 6), whatever else is in it. */
export function publicMembers({ kty, crv, x, y, n, e }: JWK): JWK {
  const members = Object.entries({ kty, crv, x, y, n, e }).filter(([, value]) => value !== undefined)
  return Object.fromEntries(members) as JWK
}
