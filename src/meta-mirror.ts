/** The setting `meta-mirror`: where the second copy of the metadata is. */

import path from 'node:path';
import { LIMITS } from './base/limits.js';

/**
 * The absolute path of the mirror; `none` and undefined (as the pool remembers) stay what they are.
 *
 * @throws what `refuse` makes of the reason
 */
export function resolveMirror(
  value: string | undefined,
  dataDir: string,
  refuse: (reason: string) => Error,
): string | undefined {
  if (value === undefined || value === 'none') return value;
  const mirror = path.resolve(value);
  if (Buffer.byteLength(mirror) > LIMITS.poolPathBytes) {
    throw refuse(`its path has more than ${LIMITS.poolPathBytes} bytes`);
  }
  if (path.dirname(mirror) === path.join(dataDir, 'pool')) {
    throw refuse('it is in the pool directory. Name a file on another disk, or none');
  }
  return mirror;
}
