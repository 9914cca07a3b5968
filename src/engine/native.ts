/**
 * The addon (native/binding/addon.cc) as it is: positional primitives, pools named by handles.
 *
 * The only place that loads the binary, and engine.ts the only one that uses it.
 */

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { FlashlunError } from '../base/errors.js';
import type {
  CloseReason,
  ConnectionMemory,
  CopyBatchResult,
  EngineInfo,
  IoBackend,
  Negotiated,
  PairSpec,
  ParkedConnection,
  PoolReport,
  PoolState,
  Recording,
  RelationshipState,
  ThrottledState,
  TlsCredentials,
  TlsPeerFacts,
  TlsReceived,
  VerifyBatchResult,
  VolumeState,
} from './types.js';

/** Means the same pool in every thread of the process; never used twice. */
export type PoolHandle = number;

/** How a connection ended. */
export interface NativeCloseReport {
  readonly reason: CloseReason;
  readonly detail: string;
  readonly requests: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
}

/** Called in the environment (main thread or worker) that adopted the connection. */
export type NativeOnClosed = (
  handle: PoolHandle,
  connectionId: number,
  report: NativeCloseReport,
) => void;

export interface NativeAddon {
  /** `capacityBytes` 0: the engine's default. `metaMirror` '': as the pool remembers. */
  open(
    dir: string,
    capacityBytes: number,
    direct: boolean,
    io: IoBackend,
    metaMirror: string,
  ): Promise<PoolHandle>;
  opened(dir: string): PoolHandle;
  close(handle: PoolHandle): Promise<void>;
  checkPool(dir: string): Promise<PoolReport>;
  info(handle: PoolHandle): EngineInfo;
  flush(handle: PoolHandle): Promise<void>;

  createVolume(
    handle: PoolHandle,
    id: number,
    sizeBytes: number,
    name: string,
    pool: number,
    thick: boolean,
    blockBytes: number,
  ): Promise<void>;
  resizeVolume(handle: PoolHandle, id: number, sizeBytes: number): Promise<void>;
  deleteVolume(handle: PoolHandle, id: number): Promise<void>;
  volumes(handle: PoolHandle): VolumeState[];
  volume(handle: PoolHandle, id: number): VolumeState | undefined;

  /** `capacityBytes` 0: all of a block device. */
  createPool(handle: PoolHandle, name: string, path: string, capacityBytes: number): Promise<void>;
  growPool(handle: PoolHandle, number: number, capacityBytes: number): Promise<void>;
  pools(handle: PoolHandle): PoolState[];

  establish(handle: PoolHandle, pairs: readonly PairSpec[]): Promise<number[]>;
  resync(handle: PoolHandle, relationshipId: number): Promise<void>;
  reverse(handle: PoolHandle, relationshipId: number): Promise<void>;
  withdraw(handle: PoolHandle, relationshipId: number): Promise<void>;
  relationships(handle: PoolHandle): RelationshipState[];
  recordings(handle: PoolHandle, volumeId: number): Recording[];
  copyBatch(
    handle: PoolHandle,
    relationshipId: number,
    firstTrack: number,
    maxTracks: number,
  ): CopyBatchResult;
  verifyBatch(
    handle: PoolHandle,
    volumeId: number,
    firstTrack: number,
    maxTracks: number,
  ): VerifyBatchResult;

  freeze(handle: PoolHandle, ids: readonly number[], milliseconds: number): Promise<void>;
  thaw(handle: PoolHandle, ids: readonly number[]): number[];

  /** Once per environment, before its first adopt. */
  onClosed(callback: NativeOnClosed): void;
  adopt(
    handle: PoolHandle,
    fd: number,
    volumeId: number,
    negotiated: Negotiated,
    readOnly: boolean,
    ...from: NativeOrigin
  ): number;
  /** Twelve numbers for each connection; see engine.ts. */
  connections(handle: PoolHandle): Float64Array;
  park(handle: PoolHandle): Promise<ParkedConnection[]>;
  unpark(handle: PoolHandle): void;
  release(handle: PoolHandle): Promise<void>;
  disconnect(handle: PoolHandle, connectionId: number): void;

  setRates(
    handle: PoolHandle,
    volumeId: number,
    iops: number,
    bytesPerSecond: number,
    connectionIops: number,
    connectionBytesPerSecond: number,
    burstMs: number,
  ): void;
  throttled(handle: PoolHandle): ThrottledState[];
  setConnectionLimits(handle: PoolHandle, memoryBytes: number, peerTimeoutSeconds: number): void;
  connectionMemory(handle: PoolHandle): ConnectionMemory;

  sdNotify(state: string): boolean;

  tlsVersion(): string;
  tlsContext(credentials: TlsCredentials): NativeTlsContext;
  tlsSession(context: NativeTlsContext): NativeTlsSession;
  tlsReceive(session: NativeTlsSession, bytes: Uint8Array): TlsReceived;
  tlsSend(session: NativeTlsSession, bytes: Uint8Array): Buffer;
  tlsEnd(session: NativeTlsSession): Buffer;
  tlsHold(session: NativeTlsSession, bytes: Uint8Array): void;
  tlsPeer(session: NativeTlsSession): TlsPeerFacts;
  socketPair(): [number, number];

  sendMessage(
    socket: number,
    body: Uint8Array,
    descriptors: readonly number[],
    milliseconds: number,
  ): Promise<void>;
  receiveMessage(socket: number, milliseconds: number): Promise<DescriptorMessage>;
  listenUnix(path: string): number;
  connectUnix(path: string): number;
  duplicate(fd: number): number;
  closeDescriptor(fd: number): void;
  peerCredentials(fd: number): PeerCredentials;
}

/** How native transmission of a connection begins, and where another server left it. */
export type NativeOrigin = [
  leftover: Uint8Array,
  tls: NativeTlsSession | undefined,
  movable: boolean,
  ...resumed: [] | [id: number, unsent: Uint8Array, drainBytes: number, counters: number[]],
];

/** A message of another server. Whoever gets it closes the descriptors. */
export interface DescriptorMessage {
  readonly body: Uint8Array;
  readonly descriptors: readonly number[];
}

/** The process at the other end of a unix socket. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
}

/** Owned by native code; freed when collected. */
export type NativeTlsContext = { readonly __nativeTlsContext: never };
export type NativeTlsSession = { readonly __nativeTlsSession: never };

const ADDON_PATH = fileURLToPath(
  new URL('../../native/build/Release/flashlun_native.node', import.meta.url),
);

/**
 * Loads the addon.
 * @throws FlashlunError INTERNAL the binary is missing or of another platform; says what to do.
 */
export function loadAddon(): NativeAddon {
  try {
    return createRequire(import.meta.url)(ADDON_PATH) as NativeAddon;
  } catch (cause) {
    const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause);
    throw new FlashlunError(
      'INTERNAL',
      `cannot load the storage engine (${reason}). Run \`npm run build\` on this machine.`,
      { cause },
    );
  }
}
