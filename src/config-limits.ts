/** The settings of `flashlun serve` that bound NBD connections: one table, read by config.ts. */

import Type from 'typebox';
import type { FlashlunError } from './base/errors.js';
import { LIMITS } from './base/limits.js';
import { MIB, parseSize } from './base/units.js';

/** Limits of NBD connections; each is described in docs/operations.md. */
export interface NbdLimits {
  readonly handshakeSeconds: number;
  readonly handshakes: number;
  readonly connections: number;
  readonly connectionsPerClient: number;
  readonly connectionsPerExport: number;
  readonly memoryBytes: number;
  readonly peerTimeoutSeconds: number;
}

interface Setting {
  readonly field: keyof NbdLimits;
  /** As the command line parser names the flag. */
  readonly option: string;
  readonly least: number;
  readonly most: number;
  readonly byDefault: number;
  /** Written with K, M, G. */
  readonly isSize?: boolean;
}

const DAY_SECONDS = 86_400;

const SETTINGS = {
  'nbd-handshake-seconds': {
    field: 'handshakeSeconds',
    option: 'nbdHandshakeSeconds',
    least: 1,
    most: 600,
    byDefault: LIMITS.nbdHandshakeMs / 1000,
  },
  'nbd-handshakes': {
    field: 'handshakes',
    option: 'nbdHandshakes',
    least: 1,
    most: LIMITS.nbdConnections,
    byDefault: LIMITS.nbdHandshakes,
  },
  'nbd-connections': {
    field: 'connections',
    option: 'nbdConnections',
    least: 1,
    most: LIMITS.nbdConnections,
    byDefault: LIMITS.nbdConnections,
  },
  'nbd-connections-per-client': {
    field: 'connectionsPerClient',
    option: 'nbdConnectionsPerClient',
    least: 1,
    most: LIMITS.nbdConnections,
    byDefault: LIMITS.nbdConnectionsPerClient,
  },
  'nbd-connections-per-export': {
    field: 'connectionsPerExport',
    option: 'nbdConnectionsPerExport',
    least: 1,
    most: LIMITS.nbdConnections,
    byDefault: LIMITS.nbdConnectionsPerExport,
  },
  'nbd-memory': {
    field: 'memoryBytes',
    option: 'nbdMemory',
    least: 0,
    most: 1024 * 1024 * MIB,
    byDefault: LIMITS.nbdMemoryBytes,
    isSize: true,
  },
  'nbd-peer-timeout': {
    field: 'peerTimeoutSeconds',
    option: 'nbdPeerTimeout',
    least: 12,
    most: DAY_SECONDS,
    byDefault: LIMITS.nbdPeerTimeoutSeconds,
  },
} as const satisfies Record<string, Setting>;

export type NbdLimitKey = keyof typeof SETTINGS;
type NbdLimitOption = (typeof SETTINGS)[NbdLimitKey]['option'];

/** What the command line parser hands over. */
export type NbdLimitFlags = { readonly [K in NbdLimitOption]?: string | number };

const KEYS = Object.keys(SETTINGS) as NbdLimitKey[];

/** What config.ts needs to know of these settings. */
export const NBD_SETTINGS = {
  keys: KEYS,
  properties: record(() => Type.String()),
  defaults: record((key) => String(SETTINGS[key].byDefault)),
  /** The flag's value as typed; undefined when it was not given. */
  flag: (flags: NbdLimitFlags, key: NbdLimitKey) => flags[SETTINGS[key].option],
  check: checkNbdLimits,
  /** The values as the YAML file has them. */
  printable: (limits: NbdLimits) => record((key) => String(limits[SETTINGS[key].field])),
} as const;

/** @throws FlashlunError CONFIG_INVALID, made by `refuse`, which is told the key and the reason */
function checkNbdLimits(
  raw: Readonly<Record<NbdLimitKey, string>>,
  refuse: (key: NbdLimitKey, reason: string) => FlashlunError,
): NbdLimits {
  const fields = KEYS.map((key) => {
    const setting: Setting = SETTINGS[key];
    const value = setting.isSize ? bytesOf(raw[key]) : countOf(raw[key]);
    if (value === undefined || value < setting.least || value > setting.most) {
      const { least, most, isSize } = setting;
      const range = `a whole number from ${least} to ${most}`;
      throw refuse(key, `use ${isSize ? 'a size up to 1T, for example 256M' : range}`);
    }
    return [setting.field, value] as const;
  });
  return Object.fromEntries(fields) as unknown as NbdLimits;
}

function record<T>(value: (key: NbdLimitKey) => T): Record<NbdLimitKey, T> {
  const entries = KEYS.map((key) => [key, value(key)]);
  return Object.fromEntries(entries) as Record<NbdLimitKey, T>;
}

function countOf(text: string): number | undefined {
  return /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}

function bytesOf(text: string): number | undefined {
  try {
    return parseSize(text);
  } catch {
    return undefined;
  }
}
