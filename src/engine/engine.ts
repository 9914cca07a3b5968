/**
 * The typed facade of the storage engine. Everything but this folder knows the engine as `Engine`.
 *
 * The pool belongs to the process: the main thread opens it, workers find the same one by its
 * directory. Errors come from native code as `NativeError` and pass through unchanged.
 */

import { addon, closedListeners, listenerKey } from './addon.js';
import type { NativeAddon, NativeOrigin, PoolHandle } from './native.js';
import { NativeContext, nativeSession } from './tls.js';
import type {
  AdoptOptions,
  ConnectionLimits,
  ConnectionMemory,
  ConnectionSettings,
  ConnectionState,
  CopyBatchResult,
  Engine,
  EngineInfo,
  EngineOptions,
  OnClosed,
  PairSpec,
  ParkedConnection,
  PoolReport,
  PoolState,
  RateLimits,
  Recording,
  RelationshipState,
  ResumedConnection,
  ThrottledState,
  TlsContext,
  TlsCredentials,
  VolumePlacement,
  VerifyBatchResult,
  VolumeState,
} from './types.js';

class NativeEngine implements Engine {
  readonly #native: NativeAddon;
  readonly #handle: PoolHandle;
  #closed: Promise<void> | undefined;

  constructor(native: NativeAddon, handle: PoolHandle) {
    this.#native = native;
    this.#handle = handle;
  }

  close(): Promise<void> {
    this.#closed ??= this.#native.close(this.#handle);
    return this.#closed;
  }

  createVolume(
    id: number,
    sizeBytes: number,
    name: string,
    { pool = 0, thick = false, blockBytes = 512 }: VolumePlacement = {},
  ): Promise<void> {
    return this.#native.createVolume(this.#handle, id, sizeBytes, name, pool, thick, blockBytes);
  }

  resizeVolume(id: number, sizeBytes: number): Promise<void> {
    return this.#native.resizeVolume(this.#handle, id, sizeBytes);
  }

  deleteVolume(id: number): Promise<void> {
    return this.#native.deleteVolume(this.#handle, id);
  }

  volumes(): VolumeState[] {
    return this.#native.volumes(this.#handle);
  }

  volume(id: number): VolumeState | undefined {
    return this.#native.volume(this.#handle, id);
  }

  createPool(name: string, path: string, capacityBytes: number): Promise<void> {
    return this.#native.createPool(this.#handle, name, path, capacityBytes);
  }

  growPool(number: number, capacityBytes: number): Promise<void> {
    return this.#native.growPool(this.#handle, number, capacityBytes);
  }

  pools(): PoolState[] {
    return this.#native.pools(this.#handle);
  }

  freeze(ids: readonly number[], milliseconds: number): Promise<void> {
    return this.#native.freeze(this.#handle, ids, milliseconds);
  }

  thaw(ids: readonly number[]): number[] {
    return this.#native.thaw(this.#handle, ids);
  }

  establish(pairs: readonly PairSpec[]): Promise<number[]> {
    return this.#native.establish(this.#handle, pairs);
  }

  resync(relationshipId: number): Promise<void> {
    return this.#native.resync(this.#handle, relationshipId);
  }

  reverse(relationshipId: number): Promise<void> {
    return this.#native.reverse(this.#handle, relationshipId);
  }

  withdraw(relationshipId: number): Promise<void> {
    return this.#native.withdraw(this.#handle, relationshipId);
  }

  relationships(): RelationshipState[] {
    return this.#native.relationships(this.#handle);
  }

  recordings(volumeId: number): Recording[] {
    return this.#native.recordings(this.#handle, volumeId);
  }

  copyBatch(relationshipId: number, firstTrack: number, maxTracks: number): CopyBatchResult {
    return this.#native.copyBatch(this.#handle, relationshipId, firstTrack, maxTracks);
  }

  verifyBatch(volumeId: number, firstTrack: number, maxTracks: number): VerifyBatchResult {
    return this.#native.verifyBatch(this.#handle, volumeId, firstTrack, maxTracks);
  }

  flush(): Promise<void> {
    return this.#native.flush(this.#handle);
  }

  info(): EngineInfo {
    return this.#native.info(this.#handle);
  }

  adopt(fd: number, options: AdoptOptions, leftover: Uint8Array, onClosed: OnClosed): number {
    const { tls, movable = true, ...settings } = options;
    const session = tls === undefined ? undefined : nativeSession(tls);
    return this.#serve(fd, settings, onClosed, [leftover, session, movable]);
  }

  resume(
    fd: number,
    settings: ConnectionSettings,
    from: ResumedConnection,
    onClosed: OnClosed,
  ): number {
    const { counters, drainBytes, id, leftover, unsent } = from;
    const { requests, errors, bytesIn, bytesOut } = counters;
    const { read, write, flush, trim, writeZeroes, other } = requests;
    const counts = [read, write, flush, trim, writeZeroes, other, errors, bytesIn, bytesOut];
    const resumed = [id, unsent, drainBytes, counts] as const;
    return this.#serve(fd, settings, onClosed, [leftover, undefined, true, ...resumed]);
  }

  #serve(
    fd: number,
    { volumeId, readOnly, ...negotiated }: ConnectionSettings,
    onClosed: OnClosed,
    from: NativeOrigin,
  ): number {
    const native = this.#native;
    const id = native.adopt(this.#handle, fd, volumeId, negotiated, readOnly, ...from);
    // The connection may have ended already, but is told of in a later turn of the event loop.
    closedListeners.set(listenerKey(this.#handle, id), onClosed);
    return id;
  }

  connections(): ConnectionState[] {
    const numbers = this.#native.connections(this.#handle);
    const states: ConnectionState[] = [];
    for (let at = 0; at < numbers.length; at += CONNECTION_NUMBERS) {
      states.push(connectionState(numbers.subarray(at, at + CONNECTION_NUMBERS)));
    }
    return states;
  }

  park(): Promise<ParkedConnection[]> {
    return this.#native.park(this.#handle);
  }

  unpark(): void {
    this.#native.unpark(this.#handle);
  }

  release(): Promise<void> {
    this.#closed ??= this.#native.release(this.#handle);
    return this.#closed;
  }

  disconnect(connectionId: number): void {
    this.#native.disconnect(this.#handle, connectionId);
  }

  setRates(limits: RateLimits): void {
    this.#native.setRates(
      this.#handle,
      limits.volumeId,
      limits.iops,
      limits.bytesPerSecond,
      limits.connectionIops,
      limits.connectionBytesPerSecond,
      limits.burstMs,
    );
  }

  throttled(): ThrottledState[] {
    return this.#native.throttled(this.#handle);
  }

  setConnectionLimits({ memoryBytes, peerTimeoutSeconds }: ConnectionLimits): void {
    this.#native.setConnectionLimits(this.#handle, memoryBytes, peerTimeoutSeconds);
  }

  connectionMemory(): ConnectionMemory {
    return this.#native.connectionMemory(this.#handle);
  }
}

/** As native/binding/connections.cc writes them. */
const CONNECTION_NUMBERS = 12;

function connectionState(numbers: Float64Array): ConnectionState {
  const at = (index: number): number => numbers[index] ?? 0;
  return {
    id: at(0),
    requests: {
      read: at(1),
      write: at(2),
      flush: at(3),
      trim: at(4),
      writeZeroes: at(5),
      other: at(6),
    },
    errors: at(7),
    bytesIn: at(8),
    bytesOut: at(9),
    inFlight: at(10),
    held: at(11),
  };
}

/**
 * Opens the pool, making it when the directory holds none, recovering it after a crash.
 * @throws NativeError LOCKED another server has it, CORRUPT damaged, IO, NO_SPACE.
 */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const native = addon();
  const { dir, capacityBytes = 0, direct = false, io = 'auto', metaMirror = '' } = options;
  return new NativeEngine(native, await native.open(dir, capacityBytes, direct, io, metaMirror));
}

/**
 * The pool that this process has open at `dir`: for workers.
 * @throws NativeError NOT_FOUND no thread has it open.
 */
export function openedEngine(dir: string): Engine {
  const native = addon();
  return new NativeEngine(native, native.opened(dir));
}

/**
 * Verifies the files of a pool that nobody has open, and changes none of them. Damage is not an
 * error but what the report is about.
 * @throws NativeError NOT_FOUND no pool there, LOCKED a server has it, CORRUPT made by a newer
 * version, IO.
 */
export function checkPool(dir: string): Promise<PoolReport> {
  return addon().checkPool(dir);
}

/**
 * Tells systemd a state such as `READY=1`. False when the process was not started by systemd.
 * @throws NativeError IO systemd's socket does not take it.
 */
export function sdNotify(state: string): boolean {
  return addon().sdNotify(state);
}

/**
 * Version of the OpenSSL that encrypts in native code.
 * @throws NativeError NOT_FOUND this build or this Node has none; the message says why.
 */
export function nativeTlsVersion(): string {
  return addon().tlsVersion();
}

/**
 * @throws NativeError NOT_FOUND as nativeTlsVersion; INVALID the credentials cannot be used, the
 * message says which part.
 */
export function createTlsContext(credentials: TlsCredentials): TlsContext {
  return new NativeContext(addon(), credentials);
}
