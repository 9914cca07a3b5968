/**
 * The old server's side of a takeover: DATA/takeover.sock, and who may have everything there is.
 *
 * One takeover at a time. Until the new server has said that it has received all, every failure,
 * its death too, gives everything back to the old one, which goes on serving.
 */

import { rmSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { FlashlunError, fromNative } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import {
  duplicateDescriptor,
  listenUnixDescriptor,
  type PeerCredentials,
  peerCredentials,
} from '../engine/index.js';
import type { HandedConnection } from '../nbd/connections.js';
import { handOver } from '../nbd/hand-over.js';
import { listenOn } from '../nbd/listen.js';
import {
  type HandedListener,
  MessageChannel,
  type Received,
  TAKEOVER_PROTOCOL,
} from './messages.js';

/** Everything that goes over. The descriptors stay the giver's until `release`. */
export interface Estate {
  readonly listeners: readonly { readonly about: HandedListener; readonly fd: number }[];
  readonly connections: readonly { readonly handed: HandedConnection; readonly fd: number }[];
}

/** What a server can do for a takeover. */
export interface Giver {
  readonly version: string;
  /** Why it cannot be now; undefined: it can. */
  obstacle(): string | undefined;
  /**
   * Ends changes and stops accepting, while the clients' I/O goes on; then parks the connections.
   *
   * @throws whatever keeps it from doing so; `takeBack` follows
   */
  give(): Promise<Estate>;
  /** Undoes `give`, however far it came. */
  takeBack(): Promise<void>;
  /** Lets go of the sockets and closes the pool. There is no way back. */
  release(): Promise<void>;
  /** What may still take a while afterwards, when the new server serves already. */
  leave(): Promise<void>;
}

export class TakeoverService {
  readonly #giver: Giver;
  readonly #log: Logger;
  readonly #path: string;
  #server: Server | undefined;
  #busy: Promise<void> | undefined;
  #greeting = 0;
  #given: (pid: number) => void = () => undefined;
  /** Resolves with the new server's process when it has everything. */
  readonly given: Promise<number>;

  private constructor(path: string, giver: Giver, log: Logger) {
    this.#path = path;
    this.#giver = giver;
    this.#log = log.child({ part: 'takeover' });
    this.given = new Promise((resolve) => {
      this.#given = resolve;
    });
  }

  /**
   * Listens at `path`, for this user alone. The caller has the pool's lock, so what is left there
   * is nobody's. @throws FlashlunError ADDRESS_UNUSABLE
   */
  static async listen(path: string, giver: Giver, log: Logger): Promise<TakeoverService> {
    const service = new TakeoverService(path, giver, log);
    rmSync(path, { force: true });
    try {
      const fd = listenUnixDescriptor(path);
      service.#server = await listenOn(fd, (socket) => service.#onConnection(socket));
    } catch (error) {
      const { message } = fromNative(error, 'takeover socket');
      throw new FlashlunError('ADDRESS_UNUSABLE', message, { cause: error });
    }
    return service;
  }

  /** Stops listening; a takeover that is under way ends first. */
  async close(): Promise<void> {
    this.#server?.close();
    await this.#busy;
    rmSync(this.#path, { force: true });
  }

  #onConnection(socket: Socket): void {
    socket.on('error', () => undefined);
    if (this.#greeting >= LIMITS.takeoverGreetings) {
      socket.destroy();
      return;
    }
    try {
      let peer: PeerCredentials = { pid: 0, uid: -1 };
      const fd = handOver(socket, new Uint8Array(0), (descriptor) => {
        peer = peerCredentials(descriptor);
        return duplicateDescriptor(descriptor);
      });
      const channel = new MessageChannel(fd);
      void this.#serve(channel, peer).finally(() => channel.close());
    } catch (error) {
      this.#log.debug({ err: error }, 'takeover: the other server left');
    }
  }

  async #serve(channel: MessageChannel, peer: PeerCredentials): Promise<void> {
    try {
      const { body } = await this.#greeted(channel);
      const reason = this.#reasonAgainst(body.protocol, peer);
      if (reason !== undefined) {
        this.#log.warn({ pid: peer.pid, reason }, 'takeover refused');
        await channel.send('refused', { reason });
        return;
      }
    } catch (error) {
      this.#log.warn({ pid: peer.pid, err: error }, 'takeover refused: no proper greeting');
      return;
    }
    this.#busy = this.#handOver(channel, peer.pid);
    await this.#busy;
    this.#busy = undefined;
  }

  async #greeted(channel: MessageChannel): Promise<Received<'hello'>> {
    this.#greeting += 1;
    try {
      return await channel.receive(['hello']);
    } finally {
      this.#greeting -= 1;
    }
  }

  #reasonAgainst(protocol: number, peer: PeerCredentials): string | undefined {
    if (peer.pid === 0) return 'you are in a PID namespace that the running server cannot see';
    // Whoever reached the socket has the rights of its owner; root may have reached it otherwise.
    if (peer.uid !== process.getuid?.() && peer.uid !== 0) return 'you are another user';
    if (protocol !== TAKEOVER_PROTOCOL) {
      return (
        `the running server speaks version ${TAKEOVER_PROTOCOL} of the takeover, ` +
        `the new one version ${protocol}; stop the one and start the other`
      );
    }
    if (this.#busy !== undefined) return 'another takeover is under way; try again when it ended';
    return this.#giver.obstacle();
  }

  async #handOver(channel: MessageChannel, pid: number): Promise<void> {
    const begun = performance.now();
    try {
      await channel.send('offer', {
        protocol: TAKEOVER_PROTOCOL,
        version: this.#giver.version,
        pid: process.pid,
      });
      await channel.receive(['ready'], LIMITS.takeoverReadyMs);
    } catch (error) {
      this.#log.warn({ pid, err: error }, 'takeover called off; this server goes on');
      return;
    }
    try {
      await this.#giveAll(channel, await this.#giver.give());
    } catch (error) {
      await this.#takeBack(channel, pid, error);
      return;
    }
    await this.#release(channel, pid, begun);
  }

  async #giveAll(channel: MessageChannel, { listeners, connections }: Estate): Promise<void> {
    for (const { about, fd } of listeners) await channel.send('listener', about, [fd]);
    for (const { handed, fd } of connections) await channel.sendConnection(handed, fd);
    const counts = { listeners: listeners.length, connections: connections.length };
    await channel.send('complete', counts);
    const { body } = await channel.receive(['received']);
    if (body.listeners !== counts.listeners || body.connections !== counts.connections) {
      throw new FlashlunError('TAKEOVER_FAILED', 'the new server has not received everything.');
    }
  }

  async #takeBack(channel: MessageChannel, pid: number, error: unknown): Promise<void> {
    try {
      await this.#giver.takeBack();
      this.#log.warn({ pid, err: error }, 'takeover failed; this server goes on');
    } catch (failure) {
      this.#log.error({ pid, err: failure }, 'after a takeover that failed, going on failed');
    }
    const { message } = fromNative(error, '');
    await channel.send('refused', { reason: message.replace(/\.$/, '') }).catch(() => undefined);
  }

  async #release(channel: MessageChannel, pid: number, begun: number): Promise<void> {
    try {
      await this.#giver.release();
    } catch (error) {
      // The pool's files are let go all the same; the new server recovers them as after a kill.
      this.#log.error({ err: error }, 'the pool could not be closed in good order');
    }
    try {
      await channel.send('released', {});
      const milliseconds = Math.round(performance.now() - begun);
      this.#log.info({ pid, milliseconds }, 'taken over');
    } catch (error) {
      this.#log.error({ pid, err: error }, 'the new server is gone; its clients must reconnect');
    }
    this.#server?.close();
    await this.#giver.leave();
    this.#given(pid);
  }
}
