/** A relationship as the API shows it. */

import { pairId } from '../array/words.js';
import { formatVolumeId, lssOf, serialOf } from '../base/ids.js';
import type { RelationshipState } from '../engine/types.js';
import type { CopyAttributes, FreezeOutcome } from '../metadata/copies.js';
import type { CopyProgress } from './background-copy.js';
import { type CopyState, stateOf } from './state-machine.js';

export interface FlashCopyView {
  readonly id: string;
  readonly source: string;
  readonly target: string;
  readonly sourceLss: string;
  readonly sourceSerial: string;
  readonly targetSerial: string;
  readonly copyMode: 'copy' | 'nocopy';
  readonly state: Exclude<CopyState, 'none'>;
  /** Background copy runs now; false while it is queued, and for nocopy (ESS "ActiveCopy"). */
  readonly activeCopy: boolean;
  readonly persistent: boolean;
  readonly recording: boolean;
  readonly revertible: boolean;
  readonly targetWriteEnabled: boolean;
  readonly paused: boolean;
  readonly priority: number;
  /** Bytes a second of its background copy; null: no limit of its own. */
  readonly copyBytesPerSecond: number | null;
  /** How its consistency group went; `none`: it was established without a freeze. */
  readonly freeze: FreezeOutcome;
  /** How long its source was frozen. */
  readonly frozenMs: number;
  /** Seconds of the freeze timer of the source's LSS. */
  readonly freezeTimeout: number;
  /** T0. */
  readonly establishedAt: string;
  readonly totalTracks: number;
  readonly outOfSyncTracks: number;
  readonly copiedPercent: number;
  /** Why background copy does not go on; absent when all is well. */
  readonly problem?: string;
}

export interface ViewParts {
  readonly essSerial: string;
  readonly attributes: CopyAttributes;
  readonly progress: CopyProgress | undefined;
  readonly freezeTimeout: number;
}

export function viewOf(state: RelationshipState, parts: ViewParts): FlashCopyView {
  const { attributes, essSerial, freezeTimeout, progress } = parts;
  const copied = state.totalTracks - state.outOfSyncTracks;
  return {
    id: pairId(state),
    source: formatVolumeId(state.sourceId),
    target: formatVolumeId(state.targetId),
    sourceLss: lssOf(state.sourceId),
    sourceSerial: serialOf(state.sourceId, essSerial),
    targetSerial: serialOf(state.targetId, essSerial),
    copyMode: state.noCopy ? 'nocopy' : 'copy',
    state: stateOf(state),
    activeCopy: progress?.active ?? false,
    persistent: state.persistent,
    recording: state.record,
    revertible: state.revertible,
    targetWriteEnabled: !state.inhibitTargetWrites,
    paused: attributes.paused,
    priority: attributes.priority,
    copyBytesPerSecond: attributes.bytesPerSecond === 0 ? null : attributes.bytesPerSecond,
    freeze: attributes.freeze,
    frozenMs: attributes.frozenMs,
    freezeTimeout,
    establishedAt: new Date(state.t0UnixMs).toISOString(),
    totalTracks: state.totalTracks,
    outOfSyncTracks: state.outOfSyncTracks,
    // Rounded down: 100 is said only when it is true.
    copiedPercent: Math.floor((copied / state.totalTracks) * 100),
    ...(progress?.problem === undefined ? {} : { problem: progress.problem }),
  };
}
