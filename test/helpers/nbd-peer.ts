/** An NBD client that does what it is told, right or wrong, request by request. */
import type { NetConnectOpts } from 'node:net';
import { clientFlags, decodeReplies, GREETING, go, OPT, option, REP, request } from './nbd-wire.js';
import { RawSocket } from './raw-socket.js';

const SIMPLE_REPLY = 0x67446698;
const STRUCTURED_REPLY = 0x668e33ef;
const CHUNK_DONE = 1;
const CHUNK = { none: 0, data: 1, hole: 2, error: 0x8001, errorOffset: 0x8002 } as const;

type RequestFields = Parameters<typeof request>[0];

/** One complete answer. */
export interface Answer {
  readonly cookie: bigint;
  readonly errno: number;
  readonly isStructured: boolean;
  /** Of a READ; of a structured one the bytes of all chunks at their offsets. */
  readonly data: Buffer;
}

export interface AttachOptions {
  readonly structured?: boolean;
  readonly behind?: Uint8Array;
}

export class NbdPeer {
  readonly raw: RawSocket;
  readonly sizeBytes: number;

  private constructor(raw: RawSocket, sizeBytes: number) {
    this.raw = raw;
    this.sizeBytes = sizeBytes;
  }

  /** Connects and takes the greeting. */
  static async greeted(address: NetConnectOpts): Promise<RawSocket> {
    const raw = await RawSocket.open(address);
    const greeting = await raw.receive(GREETING.length);
    if (!greeting.equals(GREETING)) throw new Error(`not our server: ${greeting.toString('hex')}`);
    return raw;
  }

  /** Attaches to an export by GO; `behind` is sent in the same segment as the last option. */
  static async attach(
    address: NetConnectOpts,
    exportName: string,
    { structured = false, behind = new Uint8Array(0) }: AttachOptions = {},
  ): Promise<NbdPeer> {
    const raw = await NbdPeer.greeted(address);
    raw.send(clientFlags());
    return NbdPeer.choose(raw, exportName, { structured, behind });
  }

  /** The same from where the next thing to send is an option, as inside TLS. */
  static async choose(
    raw: RawSocket,
    exportName: string,
    { structured = false, behind = new Uint8Array(0) }: AttachOptions = {},
  ): Promise<NbdPeer> {
    if (structured) {
      raw.send(option(OPT.structuredReply));
      if ((await nextReply(raw)).type !== REP.ack) throw new Error('no structured replies');
    }
    raw.send(go(exportName), behind);
    let sizeBytes = 0;
    for (;;) {
      const reply = await nextReply(raw);
      if (reply.type === REP.info) sizeBytes = Number(reply.data.readBigUInt64BE(2));
      else if (reply.type === REP.ack) return new NbdPeer(raw, sizeBytes);
      else throw new Error(`GO was refused: ${reply.data.toString()}`);
    }
  }

  send(...requests: readonly RequestFields[]): void {
    this.raw.send(...requests.map(request));
  }

  /** Sends one request and takes its answer, which must be the next one. */
  async ask(fields: RequestFields): Promise<Answer> {
    this.send(fields);
    return this.answer(fields.type === 0 ? (fields.length ?? 0) : 0);
  }

  /** The next answer; `readBytes` is how long its data is when it is a READ that succeeds. */
  async answer(readBytes = 0): Promise<Answer> {
    const magic = (await this.raw.receive(4)).readUInt32BE(0);
    if (magic === STRUCTURED_REPLY) return this.#structuredAnswer(readBytes);
    if (magic !== SIMPLE_REPLY) throw new Error(`bad reply magic 0x${magic.toString(16)}`);
    const head = await this.raw.receive(12);
    const errno = head.readUInt32BE(0);
    const data = await this.raw.receive(errno === 0 ? readBytes : 0);
    return { cookie: head.readBigUInt64BE(4), errno, isStructured: false, data };
  }

  /** The rest of a chunk after its magic, and all further chunks of the same reply. */
  async #structuredAnswer(readBytes: number): Promise<Answer> {
    const data = Buffer.alloc(readBytes);
    let errno = 0;
    let base: bigint | undefined;
    for (;;) {
      const head = await this.raw.receive(16);
      const type = head.readUInt16BE(2);
      const payload = await this.raw.receive(head.readUInt32BE(12));
      if (type === CHUNK.data || type === CHUNK.hole) {
        // Chunks of one read come in order from this server, so the first has the lowest offset.
        base ??= payload.readBigUInt64BE(0);
        const at = Number(payload.readBigUInt64BE(0) - base);
        if (type === CHUNK.data) payload.copy(data, at, 8);
      } else if (type !== CHUNK.none) errno = payload.readUInt32BE(0);
      if ((head.readUInt16BE(0) & CHUNK_DONE) !== 0) {
        return { cookie: head.readBigUInt64BE(4), errno, isStructured: true, data };
      }
      const magic = (await this.raw.receive(4)).readUInt32BE(0);
      if (magic !== STRUCTURED_REPLY) throw new Error('another reply inside a structured one');
    }
  }

  close(): void {
    this.raw.close();
  }
}

/** The next option reply. */
export async function nextReply(raw: RawSocket) {
  const head = await raw.receive(20);
  const data = await raw.receive(head.readUInt32BE(16));
  const [reply] = decodeReplies(Buffer.concat([head, data]));
  if (reply === undefined) throw new Error('no reply');
  return reply;
}
