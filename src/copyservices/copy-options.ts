/** What can be said with a verb, and what of it contradicts itself. */

import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { RelationshipFlags } from '../engine/types.js';
import type { CopyAttributes } from '../metadata/copies.js';

export type TargetOnline = 'allow' | 'refuse' | 'disconnect';

/** Of the relationship; a resync or a reverse replaces all of them (ess.md 1.5, resyncflash). */
export interface CopyOptions {
  /** No background copy; the relationship stays until withdrawn. */
  readonly noCopy?: boolean | undefined;
  /** Stays when every track has been copied. */
  readonly persistent?: boolean | undefined;
  /** Change recording, for resyncs and reverses that copy only what changed. Needs persistent. */
  readonly record?: boolean | undefined;
  /** Hosts may not write the target. */
  readonly inhibitTargetWrites?: boolean | undefined;
  /** Bytes a second of the background copy; 0: no limit of its own. Left out: as it was. */
  readonly copyBytesPerSecond?: number | undefined;
  /** 0 to 9, higher ones are copied first. Left out: as it was. */
  readonly priority?: number | undefined;
  /** When hosts are connected to the target. Default allow. */
  readonly targetOnline?: TargetOnline | undefined;
}

export interface EstablishOptions extends CopyOptions {
  /** Holds up what hosts write to the sources from before T0 until an unfreeze of their LSSs. */
  readonly freeze?: boolean | undefined;
  /** And no longer than so many seconds; at most the LSS's timer. */
  readonly freezeSeconds?: number | undefined;
  /** Also onto a target that hosts have written since it was last established. */
  readonly force?: boolean | undefined;
  /** Keeps what the targets held for so long, for an undo; 0: not. */
  readonly undoSeconds?: number | undefined;
}

export function flagsOf(options: CopyOptions): Required<RelationshipFlags> {
  return {
    noCopy: options.noCopy ?? false,
    persistent: options.persistent ?? false,
    record: options.record ?? false,
    inhibitTargetWrites: options.inhibitTargetWrites ?? false,
    revertible: false,
  };
}

/** Those that were given. */
export function attributesOf(options: CopyOptions): Partial<CopyAttributes> {
  const { copyBytesPerSecond: bytesPerSecond, priority } = options;
  return {
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
    ...(priority === undefined ? {} : { priority }),
  };
}

/** @throws FlashlunError INVALID_ARGUMENT */
export function checkOptions(options: EstablishOptions): void {
  if (options.record === true && options.persistent !== true) {
    throw invalid('change recording needs a persistent relationship. Add --persistent.');
  }
  if (options.freezeSeconds !== undefined && options.freeze !== true) {
    throw invalid('a freeze limit is only used with a freeze. Add --freeze.');
  }
  const { copyBytesPerSecond: rate, priority, undoSeconds } = options;
  // Below a track a second a copy would seem to hang.
  if (rate !== undefined && rate !== 0 && !(rate >= LIMITS.minCopyBytesPerSecond)) {
    throw invalid('a copy rate is at least 64 KiB/s (0.1 MB/s), or unlimited.');
  }
  if (priority !== undefined && !(Number.isInteger(priority) && priority >= 0 && priority <= 9)) {
    throw invalid(`priority ${priority} refused: use 0 to 9; higher ones are copied first.`);
  }
  if (undoSeconds !== undefined && !(undoSeconds >= 0 && undoSeconds <= LIMITS.maxUndoSeconds)) {
    throw invalid('an undo is kept for 0 seconds to 7 days.');
  }
}

function invalid(reason: string): FlashlunError {
  return new FlashlunError('INVALID_ARGUMENT', reason);
}
