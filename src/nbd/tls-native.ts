/**
 * TLS by native code: while it negotiates, ciphertext passes through here; then the descriptor and
 * the session go to a native connection, and JavaScript has nothing more to do with it.
 */

import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import type { TlsContext, TlsSession } from '../engine/types.js';
import { handOver } from './hand-over.js';
import { certificateIdentity, type TlsPeer } from './tls-identity.js';
import type { AdoptSecure, SecureTransport } from './tls-transport.js';

const EMPTY = new Uint8Array(0);

export class NativeTls extends Duplex implements SecureTransport {
  onOpen: ((peer: TlsPeer) => void) | undefined;
  onFailed: ((reason: string) => void) | undefined;
  readonly #socket: Socket;
  readonly #session: TlsSession;
  #isOpen = false;
  /** Nothing more is taken from the socket: handed over, ended or broken. */
  #isOver = false;
  /** Whoever reads wants more; until the handshake is done, we do. */
  #isWanted = true;

  /** The socket must have been read empty. */
  constructor(socket: Socket, context: TlsContext) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    this.#session = context.newSession();
    socket.on('readable', this.#pump);
    socket.on('end', this.#onEnd);
    socket.on('close', () => this.destroy());
  }

  get stream(): Duplex {
    return this;
  }

  handOver(leftover: Uint8Array, adopt: AdoptSecure): number {
    const parts = [leftover];
    for (let chunk = this.#take(); chunk !== null; chunk = this.#take()) parts.push(chunk);
    this.#isOver = true;
    const plain = Buffer.concat(parts);
    return handOver(this.#socket, EMPTY, (fd, ciphertext) => {
      this.#session.hold(ciphertext);
      return adopt(fd, plain, this.#session);
    });
  }

  override _read(): void {
    this.#isWanted = true;
    this.#pump();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    let ciphertext: Buffer;
    try {
      ciphertext = this.#session.send(chunk);
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    this.#socket.write(ciphertext, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(this.#session.end(), () => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#isOver = true;
    this.#socket.destroy();
    done(error);
  }

  #take(): Uint8Array | null {
    return this.read() as Uint8Array | null;
  }

  readonly #pump = (): void => {
    while (this.#isWanted && !this.#isOver) {
      const chunk = this.#socket.read() as Uint8Array | null;
      if (chunk === null) return;
      this.#receive(chunk);
    }
  };

  #receive(chunk: Uint8Array): void {
    const { state, data, output, error } = this.#session.receive(chunk);
    if (state === 'broken') {
      this.#fail(error, output);
      return;
    }
    if (output.length > 0) this.#socket.write(output);
    if (!this.#isOpen && state !== 'handshake') {
      this.#isOpen = true;
      this.#isWanted = false;
      this.onOpen?.(this.#peer());
    }
    if (data.length > 0) this.#isWanted = this.push(data);
    if (state === 'ended') this.#onEnd();
  }

  #peer(): TlsPeer {
    const { protocol, cipher, certificate, pskIdentity } = this.#session.peer();
    if (pskIdentity !== undefined) {
      return { protocol, cipher, identity: { kind: 'psk', identity: pskIdentity } };
    }
    const identity = certificate === undefined ? undefined : certificateIdentity(certificate);
    return { protocol, cipher, identity };
  }

  /** Also without close_notify: a negotiation that was cut off has chosen nothing. */
  readonly #onEnd = (): void => {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#isOpen) this.push(null);
    else this.#fail('the client closed the connection during the TLS handshake', EMPTY);
  };

  #fail(reason: string, alert: Uint8Array): void {
    this.#isOver = true;
    // The alert tells the client why. Reading goes on, into nothing: closing with unread bytes
    // would reset the connection, and the alert might be lost.
    this.#socket.removeListener('readable', this.#pump);
    this.#socket.resume();
    this.#socket.end(alert);
    this.onFailed?.(reason);
  }
}
