/**
 * Negotiation on one socket: drives the state machine of handshake.ts, keeps the deadline, starts
 * TLS where the machine says so, and ends in exactly one of two ways: the connection is ready to be
 * handed over, or it is gone.
 */

import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ExportCatalog } from '../array/export-catalog.js';
import { handOver } from './hand-over.js';
import { Handshake, type HandshakeStep, type TransmitOutcome } from './handshake.js';
import { greeting } from './replies.js';
import type { StartTlsOutcome } from './starttls.js';
import type { TlsPeer } from './tls-identity.js';
import type { TlsServer } from './tls-server.js';
import type { AdoptSecure, SecureTransport } from './tls-transport.js';

export interface NegotiationOptions {
  readonly socket: Socket;
  readonly catalog: ExportCatalog;
  readonly deadlineMs: number;
  /** Undefined: this server has no TLS. */
  readonly tls?: TlsServer | undefined;
  /** TLS is open: told before anything is negotiated inside it. */
  readonly onSecured?: ((peer: TlsPeer) => void) | undefined;
}

/** Why a negotiation led to nothing: `lost` the client left; the rest as in CloseOutcome. */
export interface NegotiationFailure {
  readonly kind: 'ended';
  readonly cause: 'abort' | 'lost' | 'refused' | 'violation' | 'limit' | 'failed';
  readonly reason: string;
  /** With `failed`: what was thrown. */
  readonly error?: unknown;
}

/** The client has chosen an export. */
export interface NegotiationSuccess {
  readonly kind: 'ready';
  readonly outcome: TransmitOutcome;
  /** Who the client is, when it came by TLS. */
  readonly tls: TlsPeer | undefined;
  /**
   * Gives the connection to `adopt`; must be called in the same turn.
   *
   * @throws FlashlunError CANNOT_CONNECT the client is gone
   * @throws whatever `adopt` throws
   */
  handOver(adopt: AdoptSecure): number;
}

/** How a negotiation ended. */
export type NegotiationEnd = NegotiationSuccess | NegotiationFailure;

/**
 * Negotiates on a fresh socket that has not been read from. `onEnd` is called once, never from
 * within this call; when it says `ended`, the socket is closed.
 */
export function negotiate(options: NegotiationOptions, onEnd: (end: NegotiationEnd) => void): void {
  new Negotiation(options, onEnd).start();
}

/** Every failure goes through the socket's `close` event, so that it is told once and last. */
class Negotiation {
  readonly #options: NegotiationOptions;
  readonly #socket: Socket;
  /** Where the client's options come from: the socket, or what TLS makes of it. */
  #stream: Duplex;
  #machine: Handshake;
  #secure: SecureTransport | undefined;
  #peer: TlsPeer | undefined;
  #deadline: NodeJS.Timeout | undefined;
  #onEnd: ((end: NegotiationEnd) => void) | undefined;
  /** The machine has spoken its last word; the client's further bytes are not ours. */
  #decided = false;
  #failure: NegotiationFailure | undefined;

  constructor(options: NegotiationOptions, onEnd: (end: NegotiationEnd) => void) {
    this.#options = options;
    this.#socket = options.socket;
    this.#stream = options.socket;
    this.#machine = new Handshake(options.catalog, options.tls?.negotiated);
    this.#onEnd = onEnd;
  }

  start(): void {
    const { deadlineMs } = this.#options;
    this.#socket.on('close', () => this.#onClose());
    this.#listen();
    // It runs until the socket is gone or handed over: also a client that does not read its last
    // reply, or does not go on with its TLS handshake, must not hold a socket for ever.
    this.#deadline = setTimeout(() => {
      this.#fail('limit', `negotiation took longer than ${deadlineMs / 1000} s`);
      this.#close();
    }, deadlineMs);
    this.#stream.write(greeting());
  }

  #listen(): void {
    this.#stream.on('error', this.#onError);
    this.#stream.on('end', this.#onClientEnd);
    this.#stream.on('readable', this.#onReadable);
  }

  /** The stream still needs somebody who hears of its errors. */
  #stopListening(): void {
    this.#stream.removeListener('end', this.#onClientEnd);
    this.#stream.removeListener('readable', this.#onReadable);
  }

  #close(): void {
    this.#stream.destroy();
    this.#socket.destroy();
  }

  /** Notes why; the first reason stays. */
  #fail(cause: NegotiationFailure['cause'], reason: string, error?: unknown): void {
    this.#decided = true;
    this.#failure ??= { kind: 'ended', cause, reason, error };
  }

  #end(end: NegotiationEnd): void {
    clearTimeout(this.#deadline);
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    onEnd?.(end);
  }

  #onClose(): void {
    this.#fail('lost', 'the connection was closed');
    if (this.#failure) this.#end(this.#failure);
  }

  readonly #onError = (error: Error): void => {
    this.#fail('lost', error.message);
  };

  /** The client sends nothing more. What it sent before may still have chosen an export. */
  readonly #onClientEnd = (): void => {
    if (this.#decided) return;
    this.#fail('lost', 'the client closed the connection');
    this.#stream.end();
  };

  readonly #onReadable = (): void => {
    while (!this.#decided) {
      const bytes = this.#stream.read() as Uint8Array | null;
      if (bytes === null) return;
      const step = this.#consume(bytes);
      if (step !== undefined) this.#answer(step);
    }
  };

  /** A bug in the machine, or a catalog that fails, must cost this connection only. */
  #consume(bytes: Uint8Array): HandshakeStep | undefined {
    try {
      return this.#machine.consume(bytes);
    } catch (error) {
      this.#failed(error);
      return undefined;
    }
  }

  #failed(error: unknown): void {
    this.#fail('failed', error instanceof Error ? error.message : String(error), error);
    this.#close();
  }

  #answer(step: HandshakeStep): void {
    const { outcome, reply } = step;
    if (outcome === undefined) {
      if (reply.length > 0) this.#stream.write(reply);
      return;
    }
    this.#decided = true;
    this.#stopListening();
    if (outcome.kind === 'transmit') {
      // Native code writes to the same descriptor, so our last byte must have left before it does.
      this.#stream.write(reply, (error) => {
        if (!error) this.#succeed(outcome);
      });
      return;
    }
    if (outcome.kind === 'starttls') {
      this.#startTls(outcome, reply);
      return;
    }
    this.#fail(outcome.cause, outcome.reason);
    if (reply.length === 0) {
      this.#close();
      return;
    }
    // Reading goes on, into nothing: closing with unread bytes would make the kernel reset the
    // connection, and the client might never see its last reply.
    this.#stream.resume();
    this.#stream.end(reply);
  }

  #succeed(outcome: TransmitOutcome): void {
    const secure = this.#secure;
    const { leftover } = outcome;
    const give = (adopt: AdoptSecure): number =>
      secure === undefined
        ? handOver(this.#socket, leftover, (fd, bytes) => adopt(fd, bytes, undefined))
        : secure.handOver(leftover, adopt);
    this.#end({ kind: 'ready', outcome, tls: this.#peer, handOver: give });
  }

  // TLS -------------------------------------------------------------------------------------------

  /**
   * A client waits for our ACK before it says anything, so bytes that are here already were put
   * behind its STARTTLS by somebody else (CVE-2021-3716 of nbdkit).
   */
  #startTls(outcome: StartTlsOutcome, reply: Uint8Array): void {
    if (outcome.leftover.length > 0 || this.#socket.read() !== null) {
      this.#fail('violation', 'plain text behind STARTTLS');
      this.#close();
      return;
    }
    this.#socket.write(reply, (error) => {
      if (error || this.#failure !== undefined) return;
      try {
        this.#secureWith(outcome);
      } catch (failure) {
        this.#failed(failure);
      }
    });
  }

  #secureWith({ inside }: StartTlsOutcome): void {
    const { catalog, tls } = this.#options;
    const secure = tls?.secure(this.#socket);
    if (tls === undefined || secure === undefined) return;
    this.#secure = secure;
    secure.onFailed = (reason) => this.#fail('refused', `TLS: ${reason}`);
    secure.onOpen = (peer) => {
      this.#peer = peer;
      this.#options.onSecured?.(peer);
      // A new machine: what was agreed in plain text is forgotten, whatever it was.
      this.#machine = new Handshake(catalog, { ...tls.negotiated, peer }, inside);
      this.#stream = secure.stream;
      this.#decided = false;
      this.#listen();
    };
  }
}
