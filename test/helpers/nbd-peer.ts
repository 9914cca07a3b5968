/** An NBD client that does what it is told, right or wrong, request by request. */
import type { NetConnectOpts } from 'node:net';
import {
  clientFlags,
  contextRequest,
  decodeReplies,
  extendedRequest,
  GREETING,
  go,
  OPT,
  option,
  REP,
  request,
} from './nbd-wire.js';
import { RawSocket } from './raw-socket.js';

const SIMPLE_REPLY = 0x67446698;
const STRUCTURED_REPLY = 0x668e33ef;
const EXTENDED_REPLY = 0x6e8a278c;
const CHUNK_DONE = 1;
const CHUNK = { none: 0, data: 1, hole: 2, status: 5, statusExtended: 6 } as const;

type RequestFields = Parameters<typeof extendedRequest>[0];

/** Length and flags of an extent. */
export type Extent = readonly [length: number, flags: number];

/** One complete answer. */
export interface Answer {
  readonly cookie: bigint;
  readonly errno: number;
  readonly isStructured: boolean;
  /** Of a READ; of a structured one the bytes of all chunks at their offsets. */
  readonly data: Buffer;
  /** Of a READ: bytes that came as holes. */
  readonly holeBytes: number;
  /** Of a BLOCK_STATUS, by context id. */
  readonly extents: ReadonlyMap<number, Extent[]>;
  /** What an error says. */
  readonly text: string;
}

export interface AttachOptions {
  readonly structured?: boolean;
  /** Instead of structured replies. */
  readonly extended?: boolean;
  /** Metadata contexts to select; all must be there. Their ids are 1, 2, ... */
  readonly contexts?: readonly string[];
  /** Information asked for in GO. */
  readonly infos?: readonly number[];
  readonly behind?: Uint8Array;
}

export class NbdPeer {
  readonly raw: RawSocket;
  readonly sizeBytes: number;
  /** Transmission flags of the export. */
  readonly flags: number;
  readonly #extended: boolean;

  private constructor(raw: RawSocket, exported: Buffer, extended: boolean) {
    this.raw = raw;
    this.sizeBytes = Number(exported.readBigUInt64BE(2));
    this.flags = exported.readUInt16BE(10);
    this.#extended = extended;
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
    options: AttachOptions = {},
  ): Promise<NbdPeer> {
    const raw = await NbdPeer.greeted(address);
    raw.send(clientFlags());
    return NbdPeer.choose(raw, exportName, options);
  }

  /** The same from where the next thing to send is an option, as inside TLS. */
  static async choose(
    raw: RawSocket,
    exportName: string,
    options: AttachOptions = {},
  ): Promise<NbdPeer> {
    const { structured = false, extended = false, contexts = [] } = options;
    if (structured) await agree(raw, option(OPT.structuredReply));
    if (extended) await agree(raw, option(OPT.extendedHeaders));
    if (contexts.length > 0) {
      const wanted = option(OPT.setMetaContext, contextRequest(exportName, contexts));
      const found = await agree(raw, wanted);
      if (found.length !== contexts.length) throw new Error('not all of the contexts');
    }
    raw.send(go(exportName, options.infos), options.behind ?? new Uint8Array(0));
    const infos = await agreement(raw);
    const exported = infos.find((info) => info.readUInt16BE(0) === 0);
    if (exported === undefined) throw new Error('GO told no size');
    return new NbdPeer(raw, exported, extended);
  }

  /** A request as this connection's headers are. */
  encode(fields: RequestFields): Buffer {
    if (this.#extended) return extendedRequest(fields);
    const { length, ...others } = fields;
    return request(length === undefined ? others : { ...others, length: Number(length) });
  }

  send(...requests: readonly RequestFields[]): void {
    this.raw.send(...requests.map((fields) => this.encode(fields)));
  }

  /** Sends one request and takes its answer, which must be the next one. */
  async ask(fields: RequestFields): Promise<Answer> {
    this.send(fields);
    return this.answer(fields.type === 0 ? Number(fields.length ?? 0) : 0);
  }

  /** The next answer; `readBytes` is how long its data is when it is a READ that succeeds. */
  async answer(readBytes = 0): Promise<Answer> {
    const magic = (await this.raw.receive(4)).readUInt32BE(0);
    if (magic === (this.#extended ? EXTENDED_REPLY : STRUCTURED_REPLY)) {
      return this.#chunks(magic, readBytes);
    }
    if (magic !== SIMPLE_REPLY || this.#extended) {
      throw new Error(`bad reply magic 0x${magic.toString(16)}`);
    }
    const head = await this.raw.receive(12);
    const errno = head.readUInt32BE(0);
    const data = await this.raw.receive(errno === 0 ? readBytes : 0);
    const rest = { isStructured: false, holeBytes: 0, extents: new Map(), text: '' };
    return { cookie: head.readBigUInt64BE(4), errno, data, ...rest };
  }

  /** The rest of a chunk after its magic, and all further chunks of the same reply. */
  async #chunks(magic: number, readBytes: number): Promise<Answer> {
    const data = Buffer.alloc(readBytes);
    const extents = new Map<number, Extent[]>();
    let [errno, text, holeBytes] = [0, '', 0];
    let base: bigint | undefined;
    for (;;) {
      const head = await this.raw.receive(this.#extended ? 28 : 16);
      const type = head.readUInt16BE(2);
      const length = this.#extended ? Number(head.readBigUInt64BE(20)) : head.readUInt32BE(12);
      const payload = await this.raw.receive(length);
      if (type === CHUNK.data || type === CHUNK.hole) {
        // Chunks of one read come in order from this server, so the first has the lowest offset.
        base ??= payload.readBigUInt64BE(0);
        const at = Number(payload.readBigUInt64BE(0) - base);
        if (type === CHUNK.data) payload.copy(data, at, 8);
        else holeBytes += payload.readUInt32BE(8);
      } else if (type === CHUNK.status || type === CHUNK.statusExtended) {
        extents.set(payload.readUInt32BE(0), decodeExtents(type, payload));
      } else if (type !== CHUNK.none) {
        errno = payload.readUInt32BE(0);
        text = payload.subarray(6, 6 + payload.readUInt16BE(4)).toString();
      }
      if ((head.readUInt16BE(0) & CHUNK_DONE) !== 0) {
        const cookie = head.readBigUInt64BE(4);
        return { cookie, errno, isStructured: true, data, holeBytes, extents, text };
      }
      if ((await this.raw.receive(4)).readUInt32BE(0) !== magic) {
        throw new Error('another reply inside a structured one');
      }
    }
  }

  close(): void {
    this.raw.close();
  }
}

/** Sends an option that must succeed; the data of its replies before the ACK. */
function agree(raw: RawSocket, bytes: Uint8Array): Promise<Buffer[]> {
  raw.send(bytes);
  return agreement(raw);
}

async function agreement(raw: RawSocket): Promise<Buffer[]> {
  const told: Buffer[] = [];
  for (;;) {
    const reply = await nextReply(raw);
    if (reply.type === REP.ack) return told;
    if (reply.type >= REP.unsupported) {
      throw new Error(`option ${reply.option} was refused: ${reply.data.toString()}`);
    }
    told.push(reply.data);
  }
}

function decodeExtents(type: number, payload: Buffer): Extent[] {
  const extents: Extent[] = [];
  if (type === CHUNK.statusExtended) {
    for (let at = 8; at < payload.length; at += 16) {
      const [length, flags] = [payload.readBigUInt64BE(at), payload.readBigUInt64BE(at + 8)];
      extents.push([Number(length), Number(flags)]);
    }
    if (payload.readUInt32BE(4) !== extents.length) throw new Error('a wrong count of extents');
    return extents;
  }
  for (let at = 4; at < payload.length; at += 8) {
    extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
  }
  return extents;
}

/** The server still takes clients and serves them. @throws Error it does not */
export async function expectAlive(address: NetConnectOpts, exportName: string): Promise<void> {
  const peer = await NbdPeer.attach(address, exportName);
  const { errno } = await peer.ask({ type: 0, length: 512 });
  peer.close();
  if (errno !== 0) throw new Error(`a read of ${exportName} was answered with error ${errno}`);
}

/** The next option reply. */
export async function nextReply(raw: RawSocket) {
  const head = await raw.receive(20);
  const data = await raw.receive(head.readUInt32BE(16));
  const [reply] = decodeReplies(Buffer.concat([head, data]));
  if (reply === undefined) throw new Error('no reply');
  return reply;
}
