/**
 * The typed facade of the storage engine. Everything but this folder knows the engine as `Engine`.
 *
 * The pool belongs to the process: the main thread opens it, workers find the same one by its
 * directory. Errors come from native code as `NativeError` and pass through unchanged.
 */

import {
  type DescriptorMessage,
  loadAddon,
  type NativeAddon,
  type PeerCredentials,
  type PoolHandle,
} from './native.js';
import type {
  AdoptOptions,
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
  RelationshipState,
  ResumedConnection,
  VolumePlacement,
  VerifyBatchResult,
  VolumeState,
} from './types.js';

/** Connections this environment has adopted, by `handle:connection`, until they end. */
const closedListeners = new Map<string, OnClosed>();

let loaded: NativeAddon | undefined;

/** Loads at first use, so that a program that never opens a pool runs without the addon. */
function addon(): NativeAddon {
  if (loaded) return loaded;
  const fresh = loadAddon();
  fresh.onClosed((handle, connectionId, report) => {
    const key = listenerKey(handle, connectionId);
    const listener = closedListeners.get(key);
    closedListeners.delete(key);
    // Node swallows what a thread-safe function's callback throws, so it is thrown elsewhere.
    const { reason, detail, ...counters } = report;
    try {
      listener?.(reason, detail, counters);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  });
  loaded = fresh;
  return fresh;
}

function listenerKey(handle: PoolHandle, connectionId: number): string {
  return `${handle}:${connectionId}`;
}

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
    { pool = 0, thick = false }: VolumePlacement = {},
  ): Promise<void> {
    return this.#native.createVolume(this.#handle, id, sizeBytes, name, pool, thick);
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
    const { volumeId, structuredReplies, readOnly } = options;
    const connectionId = this.#native.adopt(
      this.#handle,
      fd,
      volumeId,
      structuredReplies,
      readOnly,
      leftover,
    );
    // The connection may have ended already, but is told of in a later turn of the event loop.
    closedListeners.set(listenerKey(this.#handle, connectionId), onClosed);
    return connectionId;
  }

  resume(fd: number, options: AdoptOptions, from: ResumedConnection, onClosed: OnClosed): number {
    const { volumeId, structuredReplies, readOnly } = options;
    const { requests, errors, bytesIn, bytesOut } = from.counters;
    const { read, write, flush, trim, writeZeroes, other } = requests;
    const connectionId = this.#native.adopt(
      this.#handle,
      fd,
      volumeId,
      structuredReplies,
      readOnly,
      from.leftover,
      from.id,
      from.unsent,
      from.drainBytes,
      [read, write, flush, trim, writeZeroes, other, errors, bytesIn, bytesOut],
    );
    closedListeners.set(listenerKey(this.#handle, connectionId), onClosed);
    return connectionId;
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
 * Sends a message with descriptors to another server; they stay open here.
 * @throws NativeError CLOSED it has gone, TIMEOUT, LIMIT too long, IO
 */
export function sendMessage(
  socket: number,
  body: Uint8Array,
  descriptors: readonly number[],
  milliseconds: number,
): Promise<void> {
  return addon().sendMessage(socket, body, descriptors, milliseconds);
}

/**
 * Receives the next message of another server.
 * @throws NativeError CLOSED it has gone, TIMEOUT, INVALID not such a message or another version
 */
export function receiveMessage(socket: number, milliseconds: number): Promise<DescriptorMessage> {
  return addon().receiveMessage(socket, milliseconds);
}

/** A listening unix socket of this user alone, whose path is the caller's. @throws NativeError */
export function listenUnixDescriptor(path: string): number {
  return addon().listenUnix(path);
}

/** @throws NativeError NOT_FOUND nobody listens there */
export function connectUnixDescriptor(path: string): number {
  return addon().connectUnix(path);
}

/** Another number for the same socket. @throws NativeError LIMIT no more open files */
export function duplicateDescriptor(fd: number): number {
  return addon().duplicate(fd);
}

/** Closes a descriptor that one of these functions gave. */
export function closeDescriptor(fd: number): void {
  addon().closeDescriptor(fd);
}

/** Who is at the other end. @throws NativeError INVALID no unix socket */
export function peerCredentials(fd: number): PeerCredentials {
  return addon().peerCredentials(fd);
}

/**
 * Opens the pool, making it when the directory holds none, recovering it after a crash.
 * @throws NativeError LOCKED another server has it, CORRUPT damaged, IO, NO_SPACE.
 */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const native = addon();
  const { dir, capacityBytes = 0, direct = false, io = 'auto' } = options;
  return new NativeEngine(native, await native.open(dir, capacityBytes, direct, io));
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
