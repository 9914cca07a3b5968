/**
 * Configuration of `flashlun serve`: flags over FLASHLUN_* variables over the YAML file over
 * defaults.
 *
 * One schema (Raw) names every setting once: its key is the flag (`--nbd-unix`), the variable
 * (FLASHLUN_NBD_UNIX) and the key of the file (`nbd-unix`). Every source is turned into the same
 * record of raw values, merged, and checked by that schema, so a setting cannot be valid in one
 * place and refused in another.
 */

import { readFileSync } from 'node:fs';
import path from 'node:path';
import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import { parse as parseYaml } from 'yaml';
import { fileReason } from './base/command-line.js';
import { FlashlunError } from './base/errors.js';
import { isEssSerial } from './base/ids.js';
import { LIMITS } from './base/limits.js';
import { LOG_LEVELS, type LogLevel } from './base/log.js';
import { MIB, parseSize } from './base/units.js';
import { formatHostPort, type HostPort, isLoopback, parseHostPort } from './config-address.js';
import {
  checkCopies,
  COPY_DEFAULTS,
  COPY_SETTINGS,
  type CopyConfig,
  type CopyFlags,
  printableCopies,
} from './config-copies.js';
import { NBD_SETTINGS, type NbdLimitFlags, type NbdLimits } from './config-limits.js';
import {
  checkTls,
  printableTls,
  TLS_DEFAULTS,
  TLS_SETTINGS,
  type TlsConfig,
  type TlsFlags,
} from './config-tls.js';
import type { IoBackend } from './engine/types.js';
import { resolveMirror } from './meta-mirror.js';

/** What the command line parser hands over: one property per flag given, named in camelCase. */
export interface ServeOptions extends TlsFlags, NbdLimitFlags, CopyFlags {
  readonly data?: string;
  readonly config?: string;
  readonly nbd?: string;
  readonly nbdUnix?: string;
  readonly http?: string;
  readonly cache?: string;
  readonly io?: string;
  readonly essSerial?: string;
  /** `false` for --no-demo. */
  readonly demo?: boolean;
  readonly logLevel?: string;
  readonly poolCapacity?: string | number;
  readonly metaMirror?: string;
  readonly insecureNbd?: boolean;
  readonly insecureHttp?: boolean;
  readonly takeover?: boolean;
  readonly printConfig?: boolean;
}

/** `writeback`: LUN data through the page cache; `none`: past it (O_DIRECT). */
export type CacheMode = 'writeback' | 'none';

/** A checked configuration. */
export interface Config extends CopyConfig {
  /** Absolute path of the data directory. */
  readonly dataDir: string;
  readonly nbd: HostPort | undefined;
  readonly nbdUnix: string | undefined;
  readonly nbdLimits: NbdLimits;
  readonly http: HostPort;
  readonly cache: CacheMode;
  readonly io: IoBackend;
  /** As asked for; undefined takes the data directory's own, or the default when it is new. */
  readonly essSerial: string | undefined;
  readonly demo: boolean;
  /** Undefined: the process decides (quieter on a terminal). */
  readonly logLevel: LogLevel | undefined;
  /** Asked for at the pool's first open only; undefined takes the engine's default. */
  readonly poolCapacityBytes: number | undefined;
  /** Undefined: off. */
  readonly nbdTls: TlsConfig | undefined;
  /** Absolute path of the metadata's mirror, `none` for none; undefined: as the pool remembers. */
  readonly metaMirror: string | undefined;
  readonly insecureNbd: boolean;
  readonly insecureHttp: boolean;
  /** From the server that runs on the same data directory, if one does. */
  readonly takeover: boolean;
}

export const DEFAULT_ESS_SERIAL = '13698';

const Raw = Type.Object(
  {
    data: Type.String({ minLength: 1 }),
    nbd: Type.String({ minLength: 1 }),
    'nbd-unix': Type.Optional(Type.String({ minLength: 1 })),
    http: Type.String({ minLength: 1 }),
    cache: Type.String(),
    io: Type.String(),
    'ess-serial': Type.Optional(Type.String()),
    'no-demo': Type.Boolean(),
    'log-level': Type.Optional(Type.Union(LOG_LEVELS.map((level) => Type.Literal(level)))),
    ...COPY_SETTINGS,
    'pool-capacity': Type.Optional(Type.String()),
    ...TLS_SETTINGS,
    'meta-mirror': Type.Optional(Type.String({ minLength: 1 })),
    'insecure-nbd': Type.Boolean(),
    'insecure-http': Type.Boolean(),
    takeover: Type.Boolean(),
    ...NBD_SETTINGS.properties,
  },
  { additionalProperties: false },
);

type Raw = Static<typeof Raw>;
type Key = keyof Raw;

const KEYS = Object.keys(Raw.properties) as Key[];
const BOOLEANS: ReadonlySet<Key> = new Set(
  KEYS.filter((key) => 'type' in Raw.properties[key] && Raw.properties[key].type === 'boolean'),
);

const DEFAULTS = {
  data: './data',
  nbd: '127.0.0.1:10809',
  http: '127.0.0.1:8452',
  cache: 'writeback',
  io: 'auto',
  'no-demo': false,
  ...COPY_DEFAULTS,
  ...TLS_DEFAULTS,
  'insecure-nbd': false,
  'insecure-http': false,
  takeover: false,
  ...NBD_SETTINGS.defaults,
} as const satisfies Partial<Raw>;

type RawValues = Partial<Record<Key, string | boolean>>;

/**
 * Merges and checks the three sources. `fileText` is the YAML file's content, undefined without
 * one.
 *
 * @throws FlashlunError CONFIG_INVALID, naming the setting, where it came from, and what it may be.
 */
export function resolveConfig(
  flags: ServeOptions,
  env: Readonly<Record<string, string | undefined>>,
  fileText?: string,
): Config {
  const merged = {
    ...DEFAULTS,
    ...(fileText === undefined ? {} : fromFile(fileText, fileName(flags, env) ?? '')),
    ...fromEnvironment(env),
    ...fromFlags(flags),
  };
  const problem = Value.Errors(Raw, merged).find((error) => error.instancePath !== '');
  if (problem !== undefined || !Value.Check(Raw, merged)) {
    const key = problem?.instancePath.split('/')[1] ?? '';
    const levels = `use one of ${LOG_LEVELS.join(', ')}`;
    throw invalid(key, key === 'log-level' ? levels : 'it is empty or of the wrong type');
  }
  return checked(merged);
}

/**
 * Reads the YAML file named by --config or FLASHLUN_CONFIG.
 *
 * @throws FlashlunError CONFIG_INVALID unreadable
 */
export function readConfigFile(
  flags: ServeOptions,
  env: Readonly<Record<string, string | undefined>>,
): string | undefined {
  const name = fileName(flags, env);
  if (name === undefined) return undefined;
  try {
    return readFileSync(name, 'utf8');
  } catch (error) {
    const reason = `${fileReason(error)}. Check --config (FLASHLUN_CONFIG)`;
    throw new FlashlunError('CONFIG_INVALID', `cannot read ${name}: ${reason}.`, { cause: error });
  }
}

function fileName(
  flags: ServeOptions,
  env: Readonly<Record<string, string | undefined>>,
): string | undefined {
  return flags.config ?? env['FLASHLUN_CONFIG'];
}

/** What `--print-config` shows: a YAML file that gives this configuration again. */
export function printableConfig(config: Config): Record<string, string | boolean> {
  return {
    data: config.dataDir,
    nbd: config.nbd === undefined ? 'none' : formatHostPort(config.nbd),
    'nbd-unix': config.nbdUnix ?? 'none',
    http: formatHostPort(config.http),
    cache: config.cache,
    io: config.io,
    'ess-serial': config.essSerial ?? DEFAULT_ESS_SERIAL,
    'no-demo': !config.demo,
    'log-level': config.logLevel ?? 'info',
    ...printableCopies(config),
    ...(config.poolCapacityBytes === undefined
      ? {}
      : { 'pool-capacity': String(config.poolCapacityBytes) }),
    ...printableTls(config.nbdTls),
    ...(config.metaMirror === undefined ? {} : { 'meta-mirror': config.metaMirror }),
    'insecure-nbd': config.insecureNbd,
    'insecure-http': config.insecureHttp,
    takeover: config.takeover,
    ...NBD_SETTINGS.printable(config.nbdLimits),
  };
}

function fromFlags(flags: ServeOptions): RawValues {
  const values: RawValues = {};
  const given = flags as Readonly<Record<string, string | number | boolean | undefined>>;
  for (const key of KEYS) {
    const value = given[key.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())];
    if (value !== undefined) values[key] = typeof value === 'number' ? String(value) : value;
  }
  // A command line parser reports `demo: true` when --no-demo was not given; that says nothing.
  if (flags.demo === false) values['no-demo'] = true;
  return values;
}

/**
 * Variables that are no setting are left alone: the client commands have their own (FLASHLUN_USER),
 * and so may the scripts around us.
 */
function fromEnvironment(env: Readonly<Record<string, string | undefined>>): RawValues {
  const values: RawValues = {};
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith('FLASHLUN_') || value === undefined) continue;
    const key = name.slice('FLASHLUN_'.length).toLowerCase().replaceAll('_', '-');
    if (!isKey(key)) continue;
    values[key] = BOOLEANS.has(key) ? parseBoolean(name, value) : value;
  }
  return values;
}

function fromFile(text: string, file: string): RawValues {
  const refuse = (reason: string): never => {
    throw new FlashlunError('CONFIG_INVALID', `configuration file ${file} refused: ${reason}.`);
  };
  let document: unknown;
  try {
    document = parseYaml(text);
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    return refuse(`it is not YAML: ${reason.replace(/[.:]$/, '')}`);
  }
  if (document === null || document === undefined) return {};
  if (typeof document !== 'object' || Array.isArray(document)) {
    return refuse('it must hold "key: value" lines');
  }
  const values: RawValues = {};
  for (const [key, value] of Object.entries(document)) {
    if (!isKey(key)) return refuse(`unknown key '${key}'. Known ones: ${KEYS.join(', ')}`);
    const isSwitch = BOOLEANS.has(key);
    // YAML reads `8452` and `13698` as numbers; we mean text, except where it is a switch.
    if (isSwitch && typeof value === 'boolean') values[key] = value;
    else if (isSwitch) return refuse(`${key}: use true or false`);
    else if (typeof value === 'string') values[key] = value;
    else if (typeof value === 'number') values[key] = String(value);
    else return refuse(`${key}: it must be one text or number`);
  }
  return values;
}

function checked(raw: Raw): Config {
  const dataDir = path.resolve(raw.data);
  const nbd = raw.nbd === 'none' ? undefined : hostPort('nbd', raw.nbd);
  const http = hostPort('http', raw.http);
  const nbdTls = checkTls(raw, invalid);
  // With TLS required nothing can be had in plain text, so everybody may reach it.
  if (nbd !== undefined && !raw['insecure-nbd'] && nbdTls?.mode !== 'require') {
    refuseOpen('nbd', nbd, '--nbd-tls require, or --insecure-nbd');
  }
  if (!raw['insecure-http']) refuseOpen('http', http, '--insecure-http');
  const essSerial = raw['ess-serial']?.toUpperCase();
  if (essSerial !== undefined && !isEssSerial(essSerial)) {
    throw invalid(
      'ess-serial',
      'use five letters or digits, for example 13698. In a YAML file write it in quotes',
    );
  }
  return {
    dataDir,
    nbd,
    nbdUnix: unixPath(raw['nbd-unix'], dataDir),
    nbdLimits: NBD_SETTINGS.check(raw, invalid),
    http,
    cache: checkCache(raw.cache),
    io: checkIo(raw.io),
    essSerial,
    demo: !raw['no-demo'],
    logLevel: raw['log-level'],
    ...checkCopies(raw, invalid),
    poolCapacityBytes: checkCapacity(raw['pool-capacity']),
    nbdTls,
    metaMirror: resolveMirror(raw['meta-mirror'], dataDir, (why) => invalid('meta-mirror', why)),
    insecureNbd: raw['insecure-nbd'],
    insecureHttp: raw['insecure-http'],
    takeover: raw.takeover,
  };
}

function unixPath(value: string | undefined, dataDir: string): string | undefined {
  if (value === 'none') return undefined;
  const socket = path.resolve(value ?? path.join(dataDir, 'nbd.sock'));
  if (Buffer.byteLength(socket) > LIMITS.unixPathBytes) {
    throw invalid(
      'nbd-unix',
      `${socket} is longer than the ${LIMITS.unixPathBytes} bytes a unix socket's path can have. ` +
        'Give a shorter path, or none',
    );
  }
  return socket;
}

function checkCache(value: string): CacheMode {
  if (value === 'writeback' || value === 'none') return value;
  throw invalid('cache', 'use writeback or none');
}

function checkIo(value: string): IoBackend {
  if (value === 'auto' || value === 'threads' || value === 'uring') return value;
  throw invalid('io', 'use auto, uring or threads');
}

function checkCapacity(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  let bytes: number;
  try {
    bytes = parseSize(value);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw invalid('pool-capacity', reason.replace(/\.$/, ''));
  }
  if (bytes < LIMITS.minPoolCapacityBytes) {
    throw invalid('pool-capacity', `use at least ${LIMITS.minPoolCapacityBytes / MIB}M`);
  }
  return bytes;
}

function hostPort(key: Key, text: string): HostPort {
  const address = parseHostPort(text);
  if (address !== undefined) return address;
  const none = key === 'nbd' ? ', or none' : '';
  throw invalid(key, `'${text}' is not HOST:PORT, for example 127.0.0.1:10809${none}`);
}

function refuseOpen(key: Key, address: HostPort, flag: string): void {
  if (isLoopback(address.host)) return;
  throw invalid(
    key,
    `${formatHostPort(address)} is not a loopback address, and the connection is not encrypted. ` +
      `Use 127.0.0.1, or give ${flag}`,
  );
}

function parseBoolean(name: string, value: string): boolean {
  if (['1', 'true', 'yes'].includes(value.toLowerCase())) return true;
  if (['', '0', 'false', 'no'].includes(value.toLowerCase())) return false;
  throw new FlashlunError('CONFIG_INVALID', `${name} '${value}' refused: use 1 or 0`);
}

function isKey(key: string): key is Key {
  return (KEYS as string[]).includes(key);
}

function variableOf(key: string): string {
  return `FLASHLUN_${key.toUpperCase().replaceAll('-', '_')}`;
}

function invalid(key: string, reason: string): FlashlunError {
  return new FlashlunError('CONFIG_INVALID', `--${key} (${variableOf(key)}) refused: ${reason}.`, {
    details: { setting: key },
  });
}
