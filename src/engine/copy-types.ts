/** FlashCopy as the engine has it; part of types.ts. */

/** What a relationship does; kept with the tracks, because it decides what happens to them. */
export interface RelationshipFlags {
  /** No background copy; the relationship stays until withdrawn. */
  readonly noCopy: boolean;
  /** Stays when every track has been copied. */
  readonly persistent?: boolean;
  /** Both volumes note what changes, so that a resync or a reverse copies only that. */
  readonly record?: boolean;
  /** Hosts may not write the target. */
  readonly inhibitTargetWrites?: boolean;
  /** The target's image before the last resync is kept. Means nothing to the engine. */
  readonly revertible?: boolean;
}

export interface PairSpec extends RelationshipFlags {
  readonly sourceId: number;
  readonly targetId: number;
}

export interface RelationshipState extends Required<RelationshipFlags> {
  readonly id: number;
  readonly sourceId: number;
  readonly targetId: number;
  /** The source became a target after T0: its changes since then are not known. */
  readonly sourceReplaced: boolean;
  /** Tracks that background copy has still to look at; 0: it has nothing to do. */
  readonly pendingTracks: number;
  /** T0. */
  readonly t0UnixMs: number;
  /** Target tracks whose T0 data is still only shared with the source. */
  readonly outOfSyncTracks: number;
  /** Tracks of the source. */
  readonly totalTracks: number;
  /** By background copy since the pool was opened. */
  readonly copiedTracks: number;
}

/** A relationship with whose T0 a volume can be compared. */
export interface Recording {
  readonly relationshipId: number;
  readonly sourceId: number;
  readonly targetId: number;
}

export interface CopyBatchResult {
  readonly copiedTracks: number;
  /** `firstTrack` of the next call. */
  readonly nextTrack: number;
  /** Nothing is left to copy; the relationship has ended, unless it is persistent. */
  readonly done: boolean;
}
