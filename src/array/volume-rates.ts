/**
 * Rate limits of volumes: kept in SQLite, carried out by the engine, which delays requests and
 * fails none. They hold at once, also for requests that are waiting.
 */

import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { MIB } from '../base/units.js';
import type { Engine } from '../engine/types.js';
import type { RateRecord, RateRepository } from '../metadata/hosts.js';
import type { ChangeQueue } from './change-queue.js';
import type { StorageArray } from './storage-array.js';

/** Limits of a volume as the API shows them; null is no limit. MB are 2^20 bytes. */
export interface RatesView {
  readonly volume: string;
  readonly iops: number | null;
  readonly mbPerSecond: number | null;
  /** Of each connection by itself. */
  readonly connectionIops: number | null;
  readonly connectionMbPerSecond: number | null;
  /** So much unused time may be caught up. */
  readonly burstSeconds: number;
}

/** What is left out stays; null takes a limit away. */
export type RatesChange = {
  readonly [K in keyof Omit<RatesView, 'volume'>]?: RatesView[K] | undefined;
};

const NONE: Omit<RateRecord, 'volumeId'> = {
  iops: 0,
  bytesPerSecond: 0,
  connectionIops: 0,
  connectionBytesPerSecond: 0,
  burstMs: 1000,
};

export interface VolumeRatesOptions {
  readonly engine: Pick<Engine, 'setRates'>;
  readonly array: Pick<StorageArray, 'state' | 'volumes' | 'onDelete'>;
  readonly records: RateRepository;
  readonly changes: ChangeQueue;
  readonly log: Logger;
}

export class VolumeRates {
  readonly #options: VolumeRatesOptions;
  readonly #rates = new Map<number, RateRecord>();

  /** Tells the engine what was set before. */
  constructor(options: VolumeRatesOptions) {
    this.#options = options;
    const existing = new Set(options.array.volumes().map(({ id }) => id));
    for (const rates of options.records.list()) {
      if (existing.has(formatVolumeId(rates.volumeId))) this.#apply(rates);
      else options.records.delete(rates.volumeId);
    }
    options.array.onDelete((volumeId) => {
      if (this.#rates.has(volumeId)) this.#set({ volumeId, ...NONE });
    });
  }

  /** @throws FlashlunError VOLUME_NOT_FOUND */
  show(ref: string): RatesView {
    return view(this.#of(this.#options.array.state(ref).id));
  }

  /** @throws FlashlunError VOLUME_NOT_FOUND, INVALID_ARGUMENT */
  change(ref: string, change: RatesChange, by: string): Promise<RatesView> {
    return this.#options.changes.run(async () => {
      const next = merged(this.#of(this.#options.array.state(ref).id), change);
      this.#set(next);
      this.#options.log.info({ audit: true, user: by, ...view(next) }, 'rate limits changed');
      return view(next);
    });
  }

  #of(volumeId: number): RateRecord {
    return this.#rates.get(volumeId) ?? { volumeId, ...NONE };
  }

  #set(rates: RateRecord): void {
    const { records } = this.#options;
    if (isNone(rates)) records.delete(rates.volumeId);
    else records.set(rates);
    this.#apply(rates);
  }

  #apply(rates: RateRecord): void {
    if (isNone(rates)) this.#rates.delete(rates.volumeId);
    else this.#rates.set(rates.volumeId, rates);
    this.#options.engine.setRates(rates);
  }
}

function isNone(rates: RateRecord): boolean {
  const { iops, bytesPerSecond, connectionIops, connectionBytesPerSecond } = rates;
  return iops + bytesPerSecond + connectionIops + connectionBytesPerSecond === 0;
}

function merged(old: RateRecord, change: RatesChange): RateRecord {
  const iops = (name: string, value: number | null | undefined, kept: number): number =>
    value === undefined ? kept : checked(name, value, { least: 1, most: LIMITS.rateIops });
  const bytes = (name: string, value: number | null | undefined, kept: number): number => {
    if (value === undefined) return kept;
    const range = { least: LIMITS.minCopyRateMb, most: LIMITS.rateMb };
    return Math.round(checked(name, value, range) * MIB);
  };
  const burstRange = { least: LIMITS.minBurstSeconds, most: LIMITS.burstSeconds };
  const burst = change.burstSeconds;
  return {
    volumeId: old.volumeId,
    iops: iops('iops', change.iops, old.iops),
    bytesPerSecond: bytes('mbPerSecond', change.mbPerSecond, old.bytesPerSecond),
    connectionIops: iops('connectionIops', change.connectionIops, old.connectionIops),
    connectionBytesPerSecond: bytes(
      'connectionMbPerSecond',
      change.connectionMbPerSecond,
      old.connectionBytesPerSecond,
    ),
    burstMs:
      burst === undefined
        ? old.burstMs
        : Math.round(checked('burstSeconds', burst, burstRange) * 1000),
  };
}

/** The value, 0 for null. @throws FlashlunError INVALID_ARGUMENT */
function checked(
  name: string,
  value: number | null,
  { least, most }: { readonly least: number; readonly most: number },
): number {
  if (value === null) return 0;
  const isWhole = !/iops/i.test(name) || Number.isInteger(value);
  if (value >= least && value <= most && isWhole) return value;
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    `${name} ${value} refused: use ${isWhole ? '' : 'a whole number, '}${least} to ${most}.`,
  );
}

function view(rates: RateRecord): RatesView {
  const orNull = (value: number): number | null => (value === 0 ? null : value);
  return {
    volume: formatVolumeId(rates.volumeId),
    iops: orNull(rates.iops),
    mbPerSecond: orNull(rates.bytesPerSecond / MIB),
    connectionIops: orNull(rates.connectionIops),
    connectionMbPerSecond: orNull(rates.connectionBytesPerSecond / MIB),
    burstSeconds: rates.burstMs / 1000,
  };
}
