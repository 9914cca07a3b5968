/**
 * Negotiation on one socket: drives the state machine of handshake.ts, keeps the deadline, and ends
 * in exactly one of two ways: the socket is ready to be handed over, or it is gone.
 */

import type { Socket } from 'node:net';
import type { ExportCatalog } from '../array/export-catalog.js';
import { Handshake, type HandshakeStep, type TransmitOutcome } from './handshake.js';
import { greeting } from './replies.js';

export interface NegotiationOptions {
  readonly socket: Socket;
  readonly catalog: ExportCatalog;
  readonly deadlineMs: number;
}

/** Why a negotiation led to nothing: `lost` the client left; the rest as in CloseOutcome. */
export interface NegotiationFailure {
  readonly kind: 'ended';
  readonly cause: 'abort' | 'lost' | 'refused' | 'violation' | 'limit' | 'failed';
  readonly reason: string;
  /** With `failed`: what was thrown. */
  readonly error?: unknown;
}

/** How a negotiation ended. `ready`: the socket must be handed over in this same turn. */
export type NegotiationEnd =
  | { readonly kind: 'ready'; readonly outcome: TransmitOutcome }
  | NegotiationFailure;

/**
 * Negotiates on a fresh socket that has not been read from. `onEnd` is called once, never from
 * within this call; when it says `ended`, the socket is closed.
 */
export function negotiate(options: NegotiationOptions, onEnd: (end: NegotiationEnd) => void): void {
  new Negotiation(options, onEnd).start();
}

/** Every failure goes through the socket's `close` event, so that it is told once and last. */
class Negotiation {
  readonly #socket: Socket;
  readonly #machine: Handshake;
  readonly #deadlineMs: number;
  #deadline: NodeJS.Timeout | undefined;
  #onEnd: ((end: NegotiationEnd) => void) | undefined;
  /** The machine has spoken its last word; the client's further bytes are not ours. */
  #decided = false;
  #failure: NegotiationFailure | undefined;

  constructor(options: NegotiationOptions, onEnd: (end: NegotiationEnd) => void) {
    this.#socket = options.socket;
    this.#machine = new Handshake(options.catalog);
    this.#deadlineMs = options.deadlineMs;
    this.#onEnd = onEnd;
  }

  start(): void {
    const socket = this.#socket;
    socket.on('error', (error) => this.#fail('lost', error.message));
    socket.on('close', () => this.#onClose());
    socket.on('end', () => this.#onClientEnd());
    socket.on('readable', this.#onReadable);
    // It runs until the socket is gone or handed over: also a client that does not read its last
    // reply must not hold a socket for ever.
    this.#deadline = setTimeout(() => {
      this.#fail('limit', `negotiation took longer than ${this.#deadlineMs / 1000} s`);
      socket.destroy();
    }, this.#deadlineMs);
    socket.write(greeting());
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

  /** The client sends nothing more. What it sent before may still have chosen an export. */
  #onClientEnd(): void {
    if (this.#decided) return;
    this.#fail('lost', 'the client closed the connection');
    this.#socket.end();
  }

  readonly #onReadable = (): void => {
    while (!this.#decided) {
      const bytes = this.#socket.read() as Uint8Array | null;
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
      this.#fail('failed', error instanceof Error ? error.message : String(error), error);
      this.#socket.destroy();
      return undefined;
    }
  }

  #answer(step: HandshakeStep): void {
    const { outcome, reply } = step;
    if (outcome === undefined) {
      if (reply.length > 0) this.#socket.write(reply);
      return;
    }
    this.#decided = true;
    this.#socket.removeListener('readable', this.#onReadable);
    if (outcome.kind === 'transmit') {
      // Native code writes to the same descriptor, so our last byte must have left before it does.
      this.#socket.write(reply, (error) => {
        if (!error) this.#end({ kind: 'ready', outcome });
      });
      return;
    }
    this.#fail(outcome.cause, outcome.reason);
    if (reply.length === 0) {
      this.#socket.destroy();
      return;
    }
    // Reading goes on, into nothing: closing with unread bytes would make the kernel reset the
    // connection, and the client might never see its last reply.
    this.#socket.resume();
    this.#socket.end(reply);
  }
}
