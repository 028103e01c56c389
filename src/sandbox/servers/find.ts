import { execFile, spawn } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { TabibError } from '../../errors.ts'

interface Program {
  /** Names of the binary, the upstream one first. */
  names: string[]
  apt: string
  dnf: string
  brew: string
  /** A file to read instead. */
  isData?: boolean
  /** systemd units that the Debian package brings. */
  units: string[]
}

const POSTGRES = { apt: 'postgresql', dnf: 'postgresql-server', brew: 'postgresql@17', units: ['postgresql'] }
const POPPLER = { apt: 'poppler-utils', dnf: 'poppler-utils', brew: 'poppler', units: [] }
const PROGRAMS = {
  postgres: { names: ['postgres'], ...POSTGRES },
  initdb: { names: ['initdb'], ...POSTGRES },
  'nats-server': {
    names: ['nats-server'],
    apt: 'nats-server',
    dnf: 'nats-server',
    brew: 'nats-server',
    units: ['nats-server'],
  },
  'redis-server': {
    names: ['redis-server'],
    apt: 'redis-server',
    dnf: 'redis',
    brew: 'redis',
    units: ['redis-server'],
  },
  promtool: {
    names: ['promtool'],
    apt: 'prometheus',
    dnf: 'prometheus',
    brew: 'prometheus',
    units: ['prometheus'],
  },
  prometheus: {
    names: ['prometheus'],
    apt: 'prometheus',
    dnf: 'prometheus',
    brew: 'prometheus',
    units: ['prometheus'],
  },
  alertmanager: {
    names: ['alertmanager', 'prometheus-alertmanager'],
    apt: 'prometheus-alertmanager',
    dnf: 'alertmanager',
    brew: 'alertmanager',
    units: ['prometheus-alertmanager'],
  },
  openssl: { names: ['openssl'], apt: 'openssl', dnf: 'openssl', brew: 'openssl', units: [] },
  patroni: { names: ['patroni'], apt: 'patroni', dnf: 'patroni', brew: 'patroni', units: ['patroni'] },
  etcd: { names: ['etcd'], apt: 'etcd-server', dnf: 'etcd', brew: 'etcd', units: ['etcd'] },
  'softhsm2-util': { names: ['softhsm2-util'], apt: 'softhsm2', dnf: 'softhsm', brew: 'softhsm', units: [] },
  pgbouncer: {
    names: ['pgbouncer'],
    apt: 'pgbouncer',
    dnf: 'pgbouncer',
    brew: 'pgbouncer',
    units: ['pgbouncer'],
  },
  pdftotext: { names: ['pdftotext'], ...POPPLER },
  pdftoppm: { names: ['pdftoppm'], ...POPPLER },
  'hb-shape': {
    names: ['hb-shape'],
    apt: 'libharfbuzz-bin',
    dnf: 'harfbuzz-devel',
    brew: 'harfbuzz',
    units: [],
  },
  chromium: {
    names: ['chromium', 'chromium-browser'],
    apt: 'chromium',
    dnf: 'chromium-headless',
    brew: 'chromium',
    units: [],
  },
  libfaketime: {
    names: ['libfaketime.so.1'],
    isData: true,
    apt: 'libfaketime',
    dnf: 'libfaketime',
    brew: 'libfaketime',
    units: [],
  },
  'unicode-data': {
    names: ['BidiCharacterTest.txt'],
    isData: true,
    apt: 'unicode-data',
    dnf: 'unicode-ucd',
    brew: 'unicode-data',
    units: [],
  },
} satisfies Record<string, Program>

export type ProgramName = keyof typeof PROGRAMS

/** Where a program is; undefined when it is on neither PATH nor in the distribution's usual folders. Installs nothing. */
export function findProgram(name: ProgramName, path = process.env.PATH ?? ''): string | undefined {
  const folders = [...path.split(delimiter).filter(Boolean), ...usualFolders()]
  const { names, isData }: Program = PROGRAMS[name]
  const isThere = isData ? existsSync : isExecutable
  for (const folder of folders) {
    for (const file of names) if (isThere(join(folder, file))) return join(folder, file)
  }
  return undefined
}

/**
 * Finds the programs, and installs the Debian packages of those that are missing where that needs nobody's consent
 * (root, and apt-get is there). The packages' own services are neither started nor enabled.
 *
 * @throws TabibError SERVER_MISSING with the commands to paste for apt, dnf, brew and compose.
 */
export async function requirePrograms<N extends ProgramName>(names: N[]): Promise<Record<N, string>> {
  const missing = () => names.filter((name) => findProgram(name) === undefined)
  if (missing().length > 0 && canInstall()) await install(missing())
  const still = missing()
  if (still.length > 0) throw missingError(still)
  return Object.fromEntries(names.map((name) => [name, findProgram(name)])) as Record<N, string>
}

/** The error that tells how to install what is missing. */
export function missingError(names: ProgramName[], cause?: unknown): TabibError {
  const packages = (manager: 'apt' | 'dnf' | 'brew') =>
    unique(names.map((name) => PROGRAMS[name][manager])).join(' ')
  return new TabibError('SERVER_MISSING', `not found on this machine: ${names.join(', ')}`, {
    suggestions: [
      `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages('apt')}`,
      `sudo dnf install -y ${packages('dnf')}`,
      `brew install ${packages('brew')}`,
      'docker compose -f deploy/compose.yaml run --rm tabib up',
    ],
    retryable: false,
    cause,
  })
}

function usualFolders(): string[] {
  const versions = (parent: string) =>
    listFolder(parent)
      .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
      .map((version) => join(parent, version, 'bin'))
  return [
    ...versions('/usr/lib/postgresql'),
    '/usr/sbin',
    '/usr/bin',
    '/usr/local/bin',
    '/usr/share/unicode',
    ...listFolder('/usr/lib').map((target) => join('/usr/lib', target, 'faketime')),
    '/usr/lib64/faketime',
    '/opt/homebrew/bin',
    ...listFolder('/opt/homebrew/opt')
      .filter((name) => name.startsWith('postgresql'))
      .map((name) => join('/opt/homebrew/opt', name, 'bin')),
  ]
}

const canInstall = (): boolean => process.getuid?.() === 0 && isExecutable('/usr/bin/apt-get')

/**
 * One installation at a time on the machine: apt-get's locks make a second one fail rather than wait, and several
 * processes of one test run may miss something at once. What the one before has brought is not installed again.
 */
const INSTALL = `
[ "$(dpkg-query -W -f '\${db:Status-Status}\\n' "$@" 2>/dev/null | grep -cx installed)" = $# ] && exit
# deb-policy 9.3.3: a package asks this script before it starts a service, and 101 forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
fi
apt-get -q update
apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"`

async function install(names: ProgramName[]): Promise<void> {
  const packages = unique(names.map((name) => PROGRAMS[name].apt))
  const units = unique(names.flatMap((name) => PROGRAMS[name].units))
  process.stderr.write(`installing ${packages.join(', ')} with apt-get (its services stay off)\n`)
  try {
    await run('flock', ['/run/lock/tabib-install', 'sh', '-euc', INSTALL, 'tabib', ...packages])
    // Removes the links that would start them at the next boot.
    if (units.length > 0 && isExecutable('/usr/bin/systemctl')) {
      await promisify(execFile)('systemctl', ['disable', ...units]).catch(() => undefined)
    }
  } catch (cause) {
    throw missingError(names, cause)
  }
}

function run(program: string, args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
      // stdout is for the command's data.
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    child.once('error', reject)
    child.once('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`the installation ended with exit code ${code}`)),
    )
  })
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function listFolder(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : []
}

const unique = <T>(values: T[]): T[] => [...new Set(values)]
