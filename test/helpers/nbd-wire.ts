/**
 * The client's side of NBD negotiation as bytes: encoders for what a client sends (also wrongly),
 * and a decoder for what a server answers. Written from proto.md, sharing nothing with src/nbd.
 */

export const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  peekExport: 4,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const REP = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  unknown: 0x80000006,
  tooBig: 0x80000009,
  extHeaderRequired: 0x8000000a,
} as const;

export const GREETING = Buffer.from('4e42444d41474943' + '49484156454f5054' + '0003', 'hex');
export const OPTION_MAGIC = Buffer.from('49484156454f5054', 'hex');

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/** The client's handshake flags; 3 is fixed newstyle without zeroes. */
export function clientFlags(flags = 3): Buffer {
  return u32(flags);
}

/** An option; `length` claims another length than the data has. */
export function option(
  number: number,
  data: Uint8Array = Buffer.alloc(0),
  length?: number,
): Buffer {
  return Buffer.concat([OPTION_MAGIC, u32(number), u32(length ?? data.length), data]);
}

/** Data of INFO and GO. */
export function exportRequest(name: string | Uint8Array, infos: readonly number[] = []): Buffer {
  const bytes = Buffer.from(name);
  return Buffer.concat([u32(bytes.length), bytes, u16(infos.length), ...infos.map(u16)]);
}

export function go(name: string | Uint8Array, infos: readonly number[] = []): Buffer {
  return option(OPT.go, exportRequest(name, infos));
}

export function info(name: string | Uint8Array, infos: readonly number[] = []): Buffer {
  return option(OPT.info, exportRequest(name, infos));
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT; `count` claims another number of queries. */
export function contextRequest(
  name: string | Uint8Array,
  queries: readonly (string | Uint8Array)[] = [],
  count = queries.length,
): Buffer {
  const bytes = Buffer.from(name);
  const encoded = queries.map((query) => Buffer.from(query));
  return Buffer.concat([
    u32(bytes.length),
    bytes,
    u32(count),
    ...encoded.flatMap((query) => [u32(query.length), query]),
  ]);
}

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

/** Decodes a whole number of option replies. @throws Error when the bytes are anything else */
export function decodeReplies(bytes: Uint8Array): OptionReply[] {
  const buffer = Buffer.from(bytes);
  const replies: OptionReply[] = [];
  let offset = 0;
  while (offset < buffer.length) {
    if (buffer.length - offset < 20) throw new Error(`${buffer.length - offset} bytes left over`);
    if (buffer.readBigUInt64BE(offset) !== 0x0003e889045565a9n) throw new Error('bad reply magic');
    const length = buffer.readUInt32BE(offset + 16);
    const data = buffer.subarray(offset + 20, offset + 20 + length);
    if (data.length !== length) throw new Error('a reply is cut short');
    replies.push({
      option: buffer.readUInt32BE(offset + 8),
      type: buffer.readUInt32BE(offset + 12),
      data,
    });
    offset += 20 + length;
  }
  return replies;
}

/** A request of the transmission phase, with any field as wanted. */
export function request(fields: {
  readonly magic?: number;
  readonly flags?: number;
  readonly type: number;
  readonly cookie?: bigint;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly data?: Uint8Array;
}): Buffer {
  return Buffer.concat([
    u32(fields.magic ?? 0x25609513),
    u16(fields.flags ?? 0),
    u16(fields.type),
    u64(fields.cookie ?? 1n),
    u64(fields.offset ?? 0),
    u32(fields.length ?? fields.data?.length ?? 0),
    fields.data ?? Buffer.alloc(0),
  ]);
}

/** The same with extended headers: another magic, a length of 64 bits, PAYLOAD_LEN for data. */
export function extendedRequest(
  fields: Omit<Parameters<typeof request>[0], 'length'> & {
    readonly length?: number | bigint;
  },
): Buffer {
  const payload = fields.data === undefined ? 0 : CMD_FLAG.payloadLength;
  return Buffer.concat([
    u32(fields.magic ?? 0x21e41c71),
    u16((fields.flags ?? 0) | payload),
    u16(fields.type),
    u64(fields.cookie ?? 1n),
    u64(fields.offset ?? 0),
    u64(fields.length ?? fields.data?.length ?? 0),
    fields.data ?? Buffer.alloc(0),
  ]);
}

/** Transmission commands, and command flags by bit. */
export const CMD = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
  resize: 8,
} as const;
export const CMD_FLAG = {
  fua: 1,
  noHole: 2,
  dontFragment: 4,
  requireOne: 8,
  fastZero: 16,
  payloadLength: 32,
} as const;

export const ERRNO = { ok: 0, invalid: 22, noSpace: 28, overflow: 75, notSupported: 95 } as const;
