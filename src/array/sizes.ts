/** Sizes of volumes and of their blocks, checked. */

import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { formatSize } from '../base/units.js';
import { TRACK_BYTES } from '../engine/types.js';

/** Whole tracks, as the engine stores them. @throws FlashlunError SIZE_INVALID */
export function checkSize(sizeBytes: number): number {
  const tooSmall = !Number.isSafeInteger(sizeBytes) || sizeBytes <= 0;
  if (tooSmall || sizeBytes > LIMITS.maxVolumeBytes) {
    throw new FlashlunError(
      'SIZE_INVALID',
      `size ${sizeBytes} refused: a volume has ${formatSize(LIMITS.minVolumeBytes)} to ` +
        `${formatSize(LIMITS.maxVolumeBytes)}. Sizes are rounded up to ${formatSize(TRACK_BYTES)}.`,
    );
  }
  return Math.ceil(sizeBytes / TRACK_BYTES) * TRACK_BYTES;
}

/** 512, as classic disks have, or 4096 (4Kn). @throws FlashlunError INVALID_ARGUMENT */
export function checkBlockSize(blockBytes: number | undefined): number {
  const chosen = blockBytes ?? 512;
  if (chosen === 512 || chosen === 4096) return chosen;
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    `block size ${chosen} refused: a volume has blocks of 512 or of 4096 bytes.`,
  );
}
