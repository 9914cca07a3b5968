/** The new server's side of a takeover: getting everything the old one has. */

import { rmSync } from 'node:fs';
import path from 'node:path';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { closeDescriptor, connectUnixDescriptor } from '../engine/index.js';
import type { ConnectionRegistry, HandedConnection } from '../nbd/connections.js';
import {
  type HandedListener,
  handedConnection,
  MessageChannel,
  TAKEOVER_PROTOCOL,
  takeoverFailed,
} from './messages.js';

/** The control socket of a running server. */
export function takeoverPath(dataDir: string): string {
  return path.join(dataDir, 'takeover.sock');
}

/** What the old server had: the pool is free, and its sockets are here. */
export class Inheritance {
  readonly #listeners: { readonly about: HandedListener; readonly fd: number }[] = [];
  readonly #connections: { readonly handed: HandedConnection; readonly fd: number }[] = [];

  addListener(about: HandedListener, fd: number): void {
    this.#listeners.push({ about, fd });
  }

  addConnection(handed: HandedConnection, fd: number): void {
    this.#connections.push({ handed, fd });
  }

  get counts(): { listeners: number; connections: number } {
    return { listeners: this.#listeners.length, connections: this.#connections.length };
  }

  /**
   * The listening socket for an address as it is configured here; undefined: the old server did not
   * listen there. The descriptor is the caller's.
   */
  takeListener(role: HandedListener['role'], configured: string): number | undefined {
    const at = this.#listeners.findIndex(
      ({ about }) =>
        about.role === role && (about.configured === configured || about.address === configured),
    );
    return at === -1 ? undefined : this.#listeners.splice(at, 1)[0]?.fd;
  }

  /** Lets the clients go on. One that cannot is closed, and logged. */
  resumeConnections(registry: ConnectionRegistry, log: Logger): void {
    for (const { handed, fd } of this.#connections.splice(0)) {
      try {
        registry.resume(handed, fd);
      } catch (error) {
        log.error({ err: error, peer: handed.connection.peer }, 'a connection could not go on');
      } finally {
        closeDescriptor(fd);
      }
    }
  }

  /** Closes what nobody has taken. */
  close(): void {
    for (const { about, fd } of this.#listeners.splice(0)) {
      closeDescriptor(fd);
      // Nobody listens there any more, and nobody else would remove it.
      if (about.role === 'nbd-unix') rmSync(about.address, { force: true });
    }
    for (const { fd } of this.#connections.splice(0)) closeDescriptor(fd);
  }

  /** The same after a failure: the old server goes on with all of it. */
  abandon(): void {
    for (const { fd } of this.#listeners.splice(0)) closeDescriptor(fd);
    this.close();
  }
}

/**
 * Takes over from the server that runs on `dataDir`. When it resolves, that one serves no more and
 * the pool can be opened. Undefined: no server runs there.
 *
 * @throws FlashlunError TAKEOVER_REFUSED, TAKEOVER_FAILED the old server goes on, unless it fell
 *   silent while it released the pool
 */
export async function takeOver(
  dataDir: string,
  version: string,
  log: Logger,
): Promise<Inheritance | undefined> {
  const channel = connect(takeoverPath(dataDir));
  if (channel === undefined) return undefined;
  const inheritance = new Inheritance();
  try {
    await agree(channel, version, log);
    await channel.send('ready', {});
    await receiveAll(channel, inheritance);
    await channel.send('received', inheritance.counts);
    await channel.receive(['released'], LIMITS.takeoverReleaseMs);
    return inheritance;
  } catch (error) {
    inheritance.abandon();
    throw error;
  } finally {
    channel.close();
  }
}

function connect(file: string): MessageChannel | undefined {
  try {
    return new MessageChannel(connectUnixDescriptor(file));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'NOT_FOUND') return undefined;
    throw takeoverFailed(error instanceof Error ? error.message : String(error), error);
  }
}

async function agree(channel: MessageChannel, version: string, log: Logger): Promise<void> {
  await channel.send('hello', { protocol: TAKEOVER_PROTOCOL, version, pid: process.pid });
  const answer = await channel.receive(['offer', 'refused']);
  if (answer.kind === 'refused') throw refused(answer.body.reason);
  log.debug({ from: answer.body.pid, version: answer.body.version }, 'taking over');
}

function refused(reason: string): FlashlunError {
  return new FlashlunError('TAKEOVER_REFUSED', `takeover refused: ${reason}.`);
}

async function receiveAll(channel: MessageChannel, to: Inheritance): Promise<void> {
  for (;;) {
    const message = await channel.receive(
      ['listener', 'connection', 'complete', 'refused'],
      LIMITS.takeoverPrepareMs,
    );
    if (message.kind === 'refused') throw refused(message.body.reason);
    if (message.kind === 'complete') {
      const { listeners, connections } = to.counts;
      if (listeners === message.body.listeners && connections === message.body.connections) return;
      throw takeoverFailed('not everything has arrived');
    }
    const [fd, ...more] = message.descriptors;
    if (fd === undefined || more.length > 0) {
      for (const each of message.descriptors) closeDescriptor(each);
      throw takeoverFailed('a socket is missing');
    }
    if (message.kind === 'listener') to.addListener(message.body, fd);
    else to.addConnection(handedConnection(message), fd);
  }
}
