/**
 * Numbers of NBD negotiation, from proto.md of NetworkBlockDevice/nbd and, for EXTENDED_HEADERS,
 * its branch extension-ext-header. Integers on the wire are big-endian. Transmission (requests,
 * replies, commands) is native/nbd's.
 */

/** 64-bit magics. */
export const MAGIC = {
  /** `NBDMAGIC`, first bytes of the greeting. */
  greeting: 0x4e42444d41474943n,
  /** `IHAVEOPT`, second half of the greeting and start of every option. */
  option: 0x49484156454f5054n,
  optionReply: 0x0003e889045565a9n,
} as const;

/** Bytes of the fixed parts. */
export const WIRE = {
  clientFlags: 4,
  optionHeader: 16,
  optionReplyHeader: 20,
  /** Zeroes after the answer to EXPORT_NAME, unless both sides agreed on NO_ZEROES. */
  exportNamePadding: 124,
} as const;

/** Handshake flags of the server, 16 bit. */
export const SERVER_FLAG = { fixedNewstyle: 1 << 0, noZeroes: 1 << 1 } as const;

/** Handshake flags of the client, 32 bit. */
export const CLIENT_FLAG = { fixedNewstyle: 1 << 0, noZeroes: 1 << 1 } as const;

/** Transmission flags, 16 bit: what the export can do. */
export const TRANSMISSION_FLAG = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
  blockStatusPayload: 1 << 12,
} as const;

export const OPTION = {
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

/** Types of option replies; errors have bit 31 set and carry a text for people. */
export const REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsupported: 0x80000001,
  errPolicy: 0x80000002,
  errInvalid: 0x80000003,
  errPlatform: 0x80000004,
  errTlsRequired: 0x80000005,
  errUnknown: 0x80000006,
  errShutdown: 0x80000007,
  errBlockSizeRequired: 0x80000008,
  errTooBig: 0x80000009,
  errExtHeaderRequired: 0x8000000a,
} as const;

/** Information types of INFO and GO. */
export const INFO = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/**
 * Block sizes told to clients that ask. Any byte range is served, so the minimum is 1, but for a
 * volume with blocks of 4096 bytes. Preferred is a sub-block of the store (smaller writes to a
 * shared track read first); nbdcopy makes this its granularity for holes, so a whole track would be
 * too much.
 */
export const BLOCK_SIZE = { minimum: 1, preferred: 4096 } as const;
