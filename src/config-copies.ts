/** The settings of `flashlun serve` about Copy Services. */

import Type from 'typebox';
import type { FlashlunError } from './base/errors.js';
import { LIMITS } from './base/limits.js';
import { MIB } from './base/units.js';

export interface CopyConfig {
  /** Bytes a second of all background copies together; undefined: as fast as the disk. */
  readonly copyBytesPerSecond: number | undefined;
  /** Background copies at once; the others wait. */
  readonly activeCopies: number;
  /** The ESS's own restrictions: 12 targets, no cascading, only recorded resyncs and reverses. */
  readonly strict: boolean;
}

export interface CopyFlags {
  /** MB/s of all background copies together, or `unlimited`. */
  readonly copyRate?: string | number;
  readonly activeCopies?: string | number;
  readonly strict?: boolean;
}

export const COPY_SETTINGS = {
  'copy-rate': Type.String(),
  'active-copies': Type.String(),
  strict: Type.Boolean(),
};

export const COPY_DEFAULTS = {
  'copy-rate': 'unlimited',
  'active-copies': String(LIMITS.activeCopies),
  strict: false,
} as const;

interface RawCopies {
  readonly 'copy-rate': string;
  readonly 'active-copies': string;
  readonly strict: boolean;
}

/** @throws FlashlunError CONFIG_INVALID, made by `refuse` */
export function checkCopies(
  raw: RawCopies,
  refuse: (key: keyof RawCopies, reason: string) => FlashlunError,
): CopyConfig {
  const activeCopies = /^\d{1,4}$/.test(raw['active-copies']) ? Number(raw['active-copies']) : 0;
  if (activeCopies < 1 || activeCopies > LIMITS.maxActiveCopies) {
    throw refuse('active-copies', `use a whole number from 1 to ${LIMITS.maxActiveCopies}`);
  }
  const rate = raw['copy-rate'] === 'unlimited' ? undefined : rateOf(raw['copy-rate']);
  if (rate === 0) {
    throw refuse(
      'copy-rate',
      `use MB/s of all background copies together, at least ${LIMITS.minCopyRateMb}, or unlimited`,
    );
  }
  return { copyBytesPerSecond: rate, activeCopies, strict: raw.strict };
}

/** 0: not a rate. */
function rateOf(text: string): number {
  const rate = /^\d{1,9}(\.\d{1,6})?$/.test(text) ? Number(text) : 0;
  return rate < LIMITS.minCopyRateMb ? 0 : rate * MIB;
}

/** The values as the YAML file has them. */
export function printableCopies(config: CopyConfig): Record<keyof RawCopies, string | boolean> {
  const { copyBytesPerSecond: rate } = config;
  return {
    'copy-rate': rate === undefined ? 'unlimited' : String(rate / MIB),
    'active-copies': String(config.activeCopies),
    strict: config.strict,
  };
}
