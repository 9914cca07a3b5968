/**
 * A small NBD client: fixed newstyle, NBD_OPT_GO, simple replies, any number of requests in flight.
 *
 * It exists because a crash test must know exactly which write was acknowledged when the server
 * died; the tools hide that. Written from the protocol document, sharing nothing with the server. A
 * request that the server never answered rejects with `ConnectionLost`.
 */
import { connect, type NetConnectOpts, type Socket } from 'node:net';

const MAGIC = 0x4e42444d41474943n; // 'NBDMAGIC'
const OPTION_MAGIC = 0x49484156454f5054n; // 'IHAVEOPT'
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const REPLY_MAGIC = 0x67446698;
const CLIENT_FLAGS = 3; // fixed newstyle, no zeroes
const OPT_GO = 7;
const REP_ACK = 1;
const REP_INFO = 3;
const INFO_EXPORT = 0;

export const COMMAND = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
} as const;
export const FLAG_FUA = 1;
export const FLAG_NO_HOLE = 2;

/** The connection ended before the reply came: the request may or may not have happened. */
export class ConnectionLost extends Error {}

/** The server answered with an error number. */
export class NbdError extends Error {
  readonly errno: number;

  constructor(errno: number) {
    super(`NBD error ${errno}`);
    this.errno = errno;
  }
}

/** Bytes as they come in, handed out in exact amounts. */
class ByteQueue {
  #chunks: Buffer[] = [];
  #length = 0;
  #waiter: (() => void) | undefined;
  #ended = false;

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    this.#waiter?.();
  }

  end(): void {
    this.#ended = true;
    this.#waiter?.();
  }

  async take(count: number): Promise<Buffer> {
    while (this.#length < count) {
      if (this.#ended) throw new ConnectionLost('the connection ended');
      await new Promise<void>((resolve) => {
        this.#waiter = resolve;
      });
    }
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = all.length === count ? [] : [all.subarray(count)];
    this.#length -= count;
    return all.subarray(0, count);
  }
}

interface Pending {
  readonly readLength: number;
  readonly resolve: (data: Buffer) => void;
  readonly reject: (error: Error) => void;
}

export interface NbdRequest {
  readonly command: number;
  readonly offset?: number;
  readonly length?: number;
  readonly data?: Buffer;
  readonly flags?: number;
}

export class NbdClient {
  /** Set by the handshake. */
  sizeBytes = 0;
  readonly #socket: Socket;
  readonly #input = new ByteQueue();
  readonly #pending = new Map<bigint, Pending>();
  #cookie = 0n;
  #lost: ConnectionLost | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#input.push(chunk));
    socket.on('error', () => undefined); // 'close' follows and says enough.
    socket.on('close', () => this.#input.end());
  }

  /** Connects and negotiates one export. */
  static async open(address: NetConnectOpts, exportName: string): Promise<NbdClient> {
    const socket = connect(address);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve).once('error', reject);
    });
    const client = new NbdClient(socket);
    try {
      await client.#handshake(exportName);
    } catch (error) {
      socket.destroy();
      throw error;
    }
    void client.#receiveReplies();
    return client;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    return this.request({ command: COMMAND.read, offset, length });
  }

  async write(offset: number, data: Buffer, flags = 0): Promise<void> {
    await this.request({ command: COMMAND.write, offset, data, flags });
  }

  async flush(): Promise<void> {
    await this.request({ command: COMMAND.flush });
  }

  /** Sends one request and waits for its reply. */
  request(request: NbdRequest): Promise<Buffer> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    const cookie = this.#cookie++;
    const length = request.data?.length ?? request.length ?? 0;
    const header = requestHeader(request, cookie, length);
    const readLength = request.command === COMMAND.read ? length : 0;
    return new Promise((resolve, reject) => {
      this.#pending.set(cookie, { readLength, resolve, reject });
      this.#socket.write(
        request.data === undefined ? header : Buffer.concat([header, request.data]),
      );
    });
  }

  /** NBD_CMD_DISC, which has no reply. */
  close(): void {
    if (this.#lost === undefined) {
      this.#socket.write(requestHeader({ command: COMMAND.disconnect }, this.#cookie++, 0));
    }
    this.#socket.end();
    this.#socket.destroySoon();
  }

  async #handshake(exportName: string): Promise<void> {
    const greeting = await this.#input.take(18);
    if (greeting.readBigUInt64BE(0) !== MAGIC || greeting.readBigUInt64BE(8) !== OPTION_MAGIC) {
      throw new Error(`not an NBD server: ${greeting.toString('hex')}`);
    }
    const name = Buffer.from(exportName);
    const option = Buffer.alloc(4 + 16 + 4 + name.length + 2);
    option.writeUInt32BE(CLIENT_FLAGS, 0);
    option.writeBigUInt64BE(OPTION_MAGIC, 4);
    option.writeUInt32BE(OPT_GO, 12);
    option.writeUInt32BE(4 + name.length + 2, 16);
    option.writeUInt32BE(name.length, 20);
    name.copy(option, 24);
    this.#socket.write(option);
    for (;;) {
      const reply = await this.#input.take(20);
      if (reply.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC)
        throw new Error('bad option reply magic');
      const type = reply.readUInt32BE(12);
      const payload = await this.#input.take(reply.readUInt32BE(16));
      if (type === REP_ACK) return;
      if (type !== REP_INFO) throw new Error(`option refused (${type}): ${payload.toString()}`);
      if (payload.readUInt16BE(0) === INFO_EXPORT) {
        this.sizeBytes = Number(payload.readBigUInt64BE(2));
      }
    }
  }

  async #receiveReplies(): Promise<void> {
    try {
      for (;;) {
        const header = await this.#input.take(16);
        if (header.readUInt32BE(0) !== REPLY_MAGIC) throw new ConnectionLost('bad reply magic');
        const cookie = header.readBigUInt64BE(8);
        const pending = this.#pending.get(cookie);
        if (pending === undefined) throw new ConnectionLost('a reply to no request');
        const errno = header.readUInt32BE(4);
        const data = await this.#input.take(errno === 0 ? pending.readLength : 0);
        this.#pending.delete(cookie);
        if (errno === 0) pending.resolve(data);
        else pending.reject(new NbdError(errno));
      }
    } catch (error) {
      this.#lost = error instanceof ConnectionLost ? error : new ConnectionLost(String(error));
      this.#socket.destroy();
      for (const pending of this.#pending.values()) pending.reject(this.#lost);
      this.#pending.clear();
    }
  }
}

function requestHeader(request: NbdRequest, cookie: bigint, length: number): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt16BE(request.flags ?? 0, 4);
  header.writeUInt16BE(request.command, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(request.offset ?? 0), 16);
  header.writeUInt32BE(length, 24);
  return header;
}
