/** What sizes a volume may have. */

import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { formatSize } from '../base/units.js';
import { TRACK_BYTES } from '../engine/types.js';

/** Whole tracks, as the engine stores them. @throws FlashlunError SIZE_INVALID */
export function checkVolumeSize(sizeBytes: number): number {
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
