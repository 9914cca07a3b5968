/**
 * A plain socket for tests that speak bytes: send anything, receive exact amounts, and see how the
 * other side ends it. Every wait has a deadline.
 */
import { connect, type NetConnectOpts, type Socket } from 'node:net';

const DEADLINE_MS = 10_000;

export class RawSocket {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  #closed = false;
  #wake: (() => void) | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake?.();
    });
    // A reset is one of the ways to be closed; 'close' follows.
    socket.on('error', () => undefined);
    const onClosed = (): void => {
      this.#closed = true;
      this.#wake?.();
    };
    socket.on('end', onClosed);
    socket.on('close', onClosed);
  }

  static open(address: NetConnectOpts): Promise<RawSocket> {
    return new Promise((resolve, reject) => {
      const socket = connect({ ...address, allowHalfOpen: true });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.removeListener('error', reject);
        socket.setNoDelay(true);
        resolve(new RawSocket(socket));
      });
    });
  }

  /** The same over a socket that is connected already, such as an encrypted one. */
  static of(socket: Socket): RawSocket {
    return new RawSocket(socket);
  }

  send(...parts: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** The next `count` bytes. @throws Error the other side closed before, or the deadline passed */
  async receive(count: number): Promise<Buffer> {
    await this.#until(() => this.#received.length >= count, `${count} bytes`);
    if (this.#received.length < count) {
      throw new Error(`closed after ${this.#received.length} of ${count} bytes`);
    }
    const bytes = this.#received.subarray(0, count);
    this.#received = this.#received.subarray(count);
    return bytes;
  }

  /** Everything until the other side closes. */
  async receiveUntilClosed(deadlineMs = DEADLINE_MS): Promise<Buffer> {
    await this.#until(() => false, 'the end', deadlineMs);
    const bytes = this.#received;
    this.#received = Buffer.alloc(0);
    return bytes;
  }

  /** Gives the socket to somebody else, who has not missed a byte. */
  release(): Socket {
    if (this.#received.length > 0) throw new Error('bytes were received that nobody took');
    for (const event of ['data', 'end', 'close']) this.socket.removeAllListeners(event);
    this.socket.pause();
    return this.socket;
  }

  close(): void {
    this.socket.destroy();
  }

  /** Waits until `condition` holds or the other side has closed. */
  async #until(condition: () => boolean, what: string, deadlineMs = DEADLINE_MS): Promise<void> {
    const endsAt = performance.now() + deadlineMs;
    while (!condition() && !this.#closed) {
      const leftMs = endsAt - performance.now();
      if (leftMs <= 0) {
        throw new Error(`no ${what} within ${deadlineMs} ms; got ${this.#received.length} bytes`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
