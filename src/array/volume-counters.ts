/** What hosts did with a volume since the server started, as the API shows it. */

import type { VolumeState } from '../engine/types.js';

const COUNTERS = [
  'readOps',
  'readBytes',
  'writeOps',
  'writeBytes',
  'flushOps',
  'trimOps',
  'zeroOps',
  'errorOps',
  'redirectedTracks',
] as const satisfies readonly (keyof VolumeState)[];

export type VolumeCounters = Pick<VolumeState, (typeof COUNTERS)[number]>;

export function countersOf(state: VolumeState): VolumeCounters {
  return Object.fromEntries(COUNTERS.map((name) => [name, state[name]])) as VolumeCounters;
}
