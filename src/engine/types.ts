/**
 * What the engine (the C++ addon) is to the rest of the program: plain types, no code.
 *
 * Sizes and counts are numbers: the engine's limits (64 TiB volumes, 2^32 tracks) are far below
 * 2^53.
 */

import type {
  AdoptOptions,
  ConnectionLimits,
  ConnectionMemory,
  ConnectionSettings,
  ConnectionState,
  OnClosed,
  ParkedConnection,
  RateLimits,
  ResumedConnection,
  ThrottledState,
} from './connection-types.js';
import type {
  CopyBatchResult,
  PairSpec,
  Recording,
  RelationshipFlags,
  RelationshipState,
} from './copy-types.js';

export type * from './connection-types.js';
export type * from './copy-types.js';

/** Bytes of one track, the unit of mapping and copying (ess.md 2.4). */
export const TRACK_BYTES = 65_536;

/** Codes of native errors, as `error.code`. Mirrors `Code` in native/core/status.h (tested). */
export type NativeCode =
  | 'WOULD_BLOCK'
  | 'INVALID'
  | 'NOT_FOUND'
  | 'EXISTS'
  | 'BUSY'
  | 'LIMIT'
  | 'NO_SPACE'
  | 'LOCKED'
  | 'CORRUPT'
  | 'IO'
  | 'POISONED'
  | 'TIMEOUT'
  | 'CLOSED';

/** An error of the engine. The message is one line for people: what, why, what to do. */
export interface NativeError extends Error {
  readonly code: NativeCode;
}

export interface EngineOptions {
  /** Pool directory; created when missing. */
  readonly dir: string;
  /** Most bytes the track file may grow to; stored at first open. Default 1 TiB. */
  readonly capacityBytes?: number;
  /** Data past the page cache (O_DIRECT). May differ from one open to the next. Default false. */
  readonly direct?: boolean;
  /** Of asynchronous I/O. Default `auto`: io_uring where the system allows it, else threads. */
  readonly io?: IoBackend;
  /** Second file for the metadata, absolute; `none`: no longer. Default: as the pool remembers. */
  readonly metaMirror?: string;
}

export type IoBackend = 'auto' | 'threads' | 'uring';

/** A volume as the engine sees it: identity, size and host I/O since the pool was opened. */
export interface VolumeState {
  /** LLVV as a number, for example 0x1203. */
  readonly id: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdUnixMs: number;
  /** Number of the pool that its tracks come from. */
  readonly pool: number;
  /** Its whole size is reserved. */
  readonly thick: boolean;
  /** Logical block size that hosts are told: 512 or 4096. */
  readonly blockBytes: number;
  /** Tracks with data; times TRACK_BYTES is what it uses (shared tracks count for each volume). */
  readonly mappedTracks: number;
  /** Live NBD connections. */
  readonly attached: number;
  readonly readOps: number;
  readonly readBytes: number;
  readonly writeOps: number;
  readonly writeBytes: number;
  readonly flushOps: number;
  readonly trimOps: number;
  readonly zeroOps: number;
  readonly errorOps: number;
  /** First writes to a shared track, sent to a fresh one (redirect on write). */
  readonly redirectedTracks: number;
  /** When a freeze thaws it at the latest; 0: it is not frozen. */
  readonly frozenUntilUnixMs: number;
  /**
   * A host has written to it since it was created or last became a target. Of a thick volume,
   * writes over what it has already may be missed.
   */
  readonly hostWritten: boolean;
  /** A relationship forbids hosts to write to it. */
  readonly writeInhibited: boolean;
}

/** Where a new volume's tracks come from, whether all of them are reserved, and its blocks. */
export interface VolumePlacement {
  readonly pool?: number | undefined;
  readonly thick?: boolean | undefined;
  /** 512 (the default) or 4096. */
  readonly blockBytes?: number | undefined;
}

/** A pool: one file or block device that holds tracks. Number 0 is `tracks` in the directory. */
export interface PoolState {
  readonly number: number;
  readonly name: string;
  readonly path: string;
  readonly capacityTracks: number;
  readonly usedTracks: number;
  /** Used, or free with their space allocated on the disk. */
  readonly readyTracks: number;
  /** Sizes of the thick volumes. */
  readonly claimedTracks: number;
  /** What thin volumes may still take. */
  readonly availableTracks: number;
  /** Empty, or why the last growth step failed. */
  readonly growthError: string;
}

/** A track whose content is not what its checksum says. */
export interface VerifyMismatch {
  /** Of the volume. */
  readonly track: number;
  readonly physicalTrack: number;
  /** Where it is in the tracks file. */
  readonly fileOffset: number;
  /** The other volumes that read it. */
  readonly sharedWith: readonly number[];
}

/** A track that the disk does not give. */
export interface VerifyIoError {
  readonly track: number;
  readonly message: string;
}

export interface VerifyBatchResult {
  /** Tracks compared with their checksums. */
  readonly verified: number;
  /** Shared tracks that got a checksum. */
  readonly sealed: number;
  /** Tracks that could only be read: hosts may write them in place. */
  readonly readOnly: number;
  readonly readBytes: number;
  readonly mismatches: readonly VerifyMismatch[];
  readonly ioErrors: readonly VerifyIoError[];
  /** `firstTrack` of the next call. */
  readonly nextTrack: number;
  readonly done: boolean;
}

export interface EngineInfo {
  readonly capacityTracks: number;
  readonly usedTracks: number;
  readonly commits: number;
  readonly checkpoints: number;
  readonly flushes: number;
  /** Given back to the disk. */
  readonly trimmedTracks: number;
  /** Writes that waited because the page cache was 1 GiB ahead of the disk. */
  readonly writeOutWaits: number;
  /** Volumes that a freeze's time limit thawed. */
  readonly expiredFreezes: number;
  readonly recoveredUnclean: boolean;
  readonly recoveredRecords: number;
  /** Tracks with a checksum. */
  readonly sealedTracks: number;
  /** Tracks found not to match theirs, since the pool was opened. */
  readonly verifyMismatches: number;
  /** Empty, or why the pool stopped (trap T12). */
  readonly poisoned: string;
  readonly direct: boolean;
  /** What carries out asynchronous I/O: `io_uring` or `threads`. */
  readonly ioBackend: string;
  /** Empty, or why `auto` did not take io_uring. */
  readonly ioNote: string;
  /** This open made the pool. */
  readonly created: boolean;
  /** Of the metadata; empty: it has none. */
  readonly mirrorPath: string;
  /** Empty, or why one of the two copies of the metadata does not count. */
  readonly mirrorProblem: string;
  /** Empty, or which copy of the metadata this open made equal to the other, and why. */
  readonly healedCopy: string;
}

/**
 * What a finding of a pool check means: `note` nothing is wrong, `harmless` whole elsewhere or not
 * needed, `repairable` an open gets over it, `loss` an open refuses the pool or content is gone.
 */
export type Severity = 'note' | 'harmless' | 'repairable' | 'loss';

export interface PoolFinding {
  readonly severity: Severity;
  /** Of the pool directory. */
  readonly file: string;
  /** In the file, for example `journal block 17`; empty: the file as a whole. */
  readonly place: string;
  readonly text: string;
}

/** A pool that nobody has open, verified. Mirrors `PoolReport` of native/core/pool_check.h. */
export interface PoolReport {
  /** `recoverable`: an open succeeds and repairs. */
  readonly verdict: 'clean' | 'recoverable' | 'damaged';
  /** The worst first; at most 1,000. */
  readonly findings: readonly PoolFinding[];
  /** All of them, counted. */
  readonly found: Readonly<Record<Severity, number>>;
  /** Empty when no superblock copy is valid; the rest is then 0. */
  readonly poolUuid: string;
  /** Of the metadata; empty: it has none. */
  readonly mirrorPath: string;
  readonly closedInOrder: boolean;
  readonly generation: number;
  /** Of four: valid and of this generation. */
  readonly superblockCopies: number;
  /** The state that the checkpoints hold is that after this record. */
  readonly currentLsn: number;
  readonly previousLsn: number;
  /** 4 KiB pages that both checkpoints use, and that the file has. */
  readonly usedPages: number;
  readonly areaPages: number;
  readonly journalBlocks: number;
  /** What an open would replay from the journal, and then from the kill ring. */
  readonly groups: number;
  readonly records: number;
  readonly ringRecords: number;
  readonly lastLsn: number;
  readonly volumes: number;
  readonly relationships: number;
  readonly mappedTracks: number;
  readonly usedTracks: number;
  readonly capacityTracks: number;
  readonly tracksBytes: number;
  readonly neededBytes: number;
}

/** The open pool. One per process; workers reach the same one through `openedEngine(dir)`. */
export interface Engine {
  /** Commits, checkpoints, closes. Stop connections and copies first. */
  close(): Promise<void>;

  /** @throws NativeError NO_SPACE the pool cannot hold the thick volume. */
  createVolume(
    id: number,
    sizeBytes: number,
    name: string,
    placement?: VolumePlacement,
  ): Promise<void>;
  /**
   * Grows a volume, also while it is attached or in a relationship. Connections keep the size they
   * were told; new ones see the new one.
   *
   * @throws NativeError INVALID smaller than it is; NO_SPACE thick, and its pool cannot hold it.
   */
  resizeVolume(id: number, sizeBytes: number): Promise<void>;
  /** @throws NativeError BUSY while attached or in a relationship. */
  deleteVolume(id: number): Promise<void>;
  volumes(): VolumeState[];
  volume(id: number): VolumeState | undefined;
  /** Volumes with ids from 0x2000 on, which `volumes` leaves out: images kept for later. */
  savedImages(): VolumeState[];

  /** Capacity 0: all of a block device. @throws NativeError EXISTS, INVALID, LIMIT, NO_SPACE */
  createPool(name: string, path: string, capacityBytes: number): Promise<void>;
  growPool(number: number, capacityBytes: number): Promise<void>;
  pools(): PoolState[];

  /**
   * Holds up the host writes of all the volumes, or of none, until `thaw` or for so long at most.
   * When it resolves none is in flight, and their content does not change by hosts. State of this
   * process only.
   *
   * @throws NativeError NOT_FOUND; BUSY one is frozen already; INVALID the time; TIMEOUT a write in
   *   flight does not end.
   */
  freeze(ids: readonly number[], milliseconds: number): Promise<void>;
  /** Ends it. Returns those that were frozen until now: one that is missing was thawed before. */
  thaw(ids: readonly number[]): number[];

  /** All pairs at one T0, or none. Resolves with one relationship id a pair, when T0 is durable. */
  establish(pairs: readonly PairSpec[]): Promise<number[]>;
  /**
   * The targets become their sources' content again, all at one new T0, or none. Relationships that
   * recorded share only what changed. `flags` replace theirs.
   */
  resync(relationshipIds: readonly number[], flags: RelationshipFlags): Promise<void>;
  /** The roles swap: the old sources become what the old targets hold, at a new T0. As resync. */
  reverse(relationshipIds: readonly number[], flags: RelationshipFlags): Promise<void>;
  /** Other flags without a new T0; `record` can only end. */
  setFlags(relationshipId: number, flags: RelationshipFlags): Promise<void>;
  /**
   * The target of a relationship that records becomes the image again, a volume of its size; what
   * differs counts as changed. T0 and flags become the relationship's.
   */
  revert(
    relationshipId: number,
    imageId: number,
    t0UnixMs: number,
    flags: RelationshipFlags,
  ): Promise<void>;
  withdraw(relationshipId: number): Promise<void>;
  relationships(): RelationshipState[];
  /** Those of saved images, which `relationships` leaves out. */
  savedRelationships(): RelationshipState[];
  /** At most 64, the oldest ones. Unlike `relationships` this counts nothing. */
  recordings(volumeId: number): Recording[];
  /**
   * Blocks the calling thread for the disk: workers only.
   *
   * @throws NativeError NOT_FOUND when withdrawn meanwhile.
   */
  copyBatch(relationshipId: number, firstTrack: number, maxTracks: number): CopyBatchResult;

  /**
   * Reads tracks of a volume and compares them with their checksums. Blocks the calling thread for
   * the disk: workers only.
   *
   * @throws NativeError NOT_FOUND when deleted meanwhile.
   */
  verifyBatch(volumeId: number, firstTrack: number, maxTracks: number): VerifyBatchResult;

  flush(): Promise<void>;
  info(): EngineInfo;

  /**
   * Takes over a negotiated socket: duplicates `fd` and serves transmission on native threads.
   * `leftover` are bytes already read behind the handshake. The caller destroys its own socket in
   * the same turn. Returns a connection id.
   *
   * @throws NativeError NOT_FOUND no such volume, LIMIT too many connections.
   */
  adopt(fd: number, options: AdoptOptions, leftover: Uint8Array, onClosed: OnClosed): number;
  /** Holds at once, also for requests that wait. Not kept: to be said after each open. */
  setRates(limits: RateLimits): void;
  /** Volumes with requests that were delayed. */
  throttled(): ThrottledState[];
  setConnectionLimits(limits: ConnectionLimits): void;
  connectionMemory(): ConnectionMemory;
  /**
   * Goes on with a connection that another server parked: duplicates `fd` as adopt does. It keeps
   * its id and its counters.
   */
  resume(
    fd: number,
    settings: ConnectionSettings,
    from: ResumedConnection,
    onClosed: OnClosed,
  ): number;
  /** The connections in transmission, by id. */
  connections(): ConnectionState[];
  /**
   * Brings every connection to a boundary between requests and stops there; new ones are refused.
   *
   * @throws NativeError TIMEOUT a request does not end; all of them go on. BUSY: parked already.
   */
  park(): Promise<ParkedConnection[]>;
  /** The parked connections go on as if nothing had been. */
  unpark(): void;
  /**
   * Forgets the parked connections, for another process that has them (their onClosed says
   * `parked`), and closes the pool. Its memory is left to the end of the process.
   */
  release(): Promise<void>;
  /** Drops a connection; its onClosed follows. Unknown ids are ignored (it ended by itself). */
  disconnect(connectionId: number): void;
}
