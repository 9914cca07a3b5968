/**
 * Sizes as people write and read them. All units are powers of 1024, as in qemu-img, lvcreate and
 * nbdkit.
 */

import { FlashlunError } from './errors.js';
import { shorten } from './shorten.js';

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

const UNIT_BYTES = new Map<string, number>([
  ['', 1],
  ['K', KIB],
  ['M', MIB],
  ['G', GIB],
  ['T', TIB],
  ['P', 1024 * TIB],
]);

/**
 * Bytes of a size: `65536`, `512M`, `10G`, `10GiB`, `1.5T`; the case of the unit does not matter.
 *
 * @throws FlashlunError INVALID_ARGUMENT not a size, not a whole number of bytes, or above 2^53.
 *   `10GB` is refused because it means 10^10 to disk makers and 10 * 2^30 to many programs.
 */
export function parseSize(text: string): number {
  const match = /^(\d{1,20}(?:\.\d{1,9})?)\s*([KMGTP]?)(iB|B)?$/i.exec(text.trim());
  const unit = match?.[2]?.toUpperCase() ?? '';
  const suffix = match?.[3]?.toUpperCase() ?? '';
  // "10B" is bytes and "10GiB" is clear; "10iB" is nothing and "10GB" is ambiguous.
  const clear = suffix === '' || (suffix === 'IB') === (unit !== '');
  if (match?.[1] === undefined || !clear) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `'${shorten(text)}' is not a size. ` +
        `Write bytes or a number with K, M, G or T (powers of 1024).`,
    );
  }
  const bytes = Number(match[1]) * (UNIT_BYTES.get(unit) ?? 1);
  if (!Number.isSafeInteger(bytes)) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `'${shorten(text)}' is not usable as a size: it must be a whole number of bytes below 8 PiB.`,
    );
  }
  return bytes;
}

/** `10737418240` -> `10.0 GiB`; below 1 KiB plain bytes. For people; never parse it back. */
export function formatSize(bytes: number): string {
  if (bytes < KIB) return `${bytes} B`;
  let value = bytes / KIB;
  let unit = 'KiB';
  for (const next of ['MiB', 'GiB', 'TiB', 'PiB']) {
    // 1023.95 and up would print as "1024.0".
    if (value < 1023.95) break;
    value /= KIB;
    unit = next;
  }
  return `${value.toFixed(1)} ${unit}`;
}
