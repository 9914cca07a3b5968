/** Sockets as plain descriptors, and messages that carry them to another server. */

import { addon } from './addon.js';
import type { DescriptorMessage, PeerCredentials } from './native.js';

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
 * Descriptors of two connected unix stream sockets, which the caller closes.
 * @throws NativeError LIMIT
 */
export function socketPair(): [number, number] {
  return addon().socketPair();
}
