/** How relationships and times read in messages. */

import { formatVolumeId } from '../base/ids.js';
import type { RelationshipState } from '../engine/types.js';

/** `1204:1303 (nocopy, since 2026-11-22 10:40:11)` */
export function describeRelationship(state: RelationshipState): string {
  const mode = state.noCopy ? 'nocopy' : 'copying';
  return `${pairId(state)} (${mode}, since ${localTime(state.t0UnixMs)})`;
}

/** `1203:1303` */
export function pairId(state: Pick<RelationshipState, 'sourceId' | 'targetId'>): string {
  return `${formatVolumeId(state.sourceId)}:${formatVolumeId(state.targetId)}`;
}

/** `2026-11-22 10:40:11` in the server's time zone, as people read it off their clocks. */
export function localTime(unixMs: number): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const time = new Date(unixMs);
  const day = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join('-');
  return `${day} ${[time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(':')}`;
}
