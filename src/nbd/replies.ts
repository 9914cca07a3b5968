/** Encoders of what a server says during negotiation. Pure: values in, bytes out. */

import { assert } from '../base/assert.js';
import { LIMITS } from '../base/limits.js';
import type { ReplyStyle } from '../engine/types.js';
import {
  BLOCK_SIZE,
  INFO,
  MAGIC,
  REPLY,
  SERVER_FLAG,
  TRANSMISSION_FLAG,
  WIRE,
} from './protocol.js';

/** The greeting, the first bytes on every connection. */
export function greeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(MAGIC.greeting, 0);
  bytes.writeBigUInt64BE(MAGIC.option, 8);
  bytes.writeUInt16BE(SERVER_FLAG.fixedNewstyle | SERVER_FLAG.noZeroes, 16);
  return bytes;
}

/** One option reply: the 20-byte header that echoes `option`, and its data. */
export function optionReply(option: number, type: number, data?: Uint8Array): Buffer {
  const length = data?.length ?? 0;
  const bytes = Buffer.alloc(WIRE.optionReplyHeader + length);
  bytes.writeBigUInt64BE(MAGIC.optionReply, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(length, 16);
  if (data) bytes.set(data, WIRE.optionReplyHeader);
  return bytes;
}

/**
 * An error reply with a text for people. The text ends with a newline because nbd-client replaces
 * the last byte by NUL before it prints.
 */
export function errorReply(option: number, type: number, text: string): Buffer {
  assert(type >= REPLY.errUnsupported, 'an error reply has an error type');
  return optionReply(option, type, utf8(`${text}\n`));
}

/** One entry of LIST: length and bytes of the name, then the description. */
export function serverReply(option: number, name: string, description: string): Buffer {
  const nameBytes = utf8(name);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(nameBytes.length, 0);
  return optionReply(option, REPLY.server, Buffer.concat([length, nameBytes, utf8(description)]));
}

/** One entry of LIST_META_CONTEXT, whose ids mean nothing (0), or of SET_META_CONTEXT. */
export function metaContextReply(option: number, id: number, name: string): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(id, 0);
  return optionReply(option, REPLY.metaContext, Buffer.concat([head, utf8(name)]));
}

/** Transmission flags of an export, for a client that has agreed on `style` and contexts. */
export function transmissionFlags(readOnly: boolean, style: ReplyStyle, contexts: number): number {
  let flags =
    TRANSMISSION_FLAG.hasFlags |
    TRANSMISSION_FLAG.sendFlush |
    TRANSMISSION_FLAG.sendFua |
    TRANSMISSION_FLAG.sendCache |
    // All connections of a volume share one store, so a flush on one covers the writes of all.
    TRANSMISSION_FLAG.canMultiConn;
  if (readOnly) flags |= TRANSMISSION_FLAG.readOnly;
  else {
    flags |=
      TRANSMISSION_FLAG.sendTrim |
      TRANSMISSION_FLAG.sendWriteZeroes |
      TRANSMISSION_FLAG.sendFastZero;
  }
  if (style !== 'simple') flags |= TRANSMISSION_FLAG.sendDf;
  if (style === 'extended' && contexts > 0) flags |= TRANSMISSION_FLAG.blockStatusPayload;
  return flags;
}

/** The answer to EXPORT_NAME, which has no header; `padded` adds the 124 zeroes of old clients. */
export function exportNameReply(sizeBytes: number, flags: number, padded: boolean): Buffer {
  const bytes = Buffer.alloc(10 + (padded ? WIRE.exportNamePadding : 0));
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

/** NBD_INFO_EXPORT: size and transmission flags, the one info that is never left out. */
export function infoExport(option: number, sizeBytes: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeUInt16BE(INFO.export, 0);
  data.writeBigUInt64BE(BigInt(sizeBytes), 2);
  data.writeUInt16BE(flags, 10);
  return optionReply(option, REPLY.info, data);
}

/** NBD_INFO_NAME or NBD_INFO_DESCRIPTION. */
export function infoText(
  option: number,
  type: typeof INFO.name | typeof INFO.description,
  text: string,
): Buffer {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(type, 0);
  return optionReply(option, REPLY.info, Buffer.concat([head, utf8(text)]));
}

/** NBD_INFO_BLOCK_SIZE; `minimumBytes` is what offsets and lengths are multiples of. */
export function infoBlockSize(option: number, minimumBytes: number): Buffer {
  const data = Buffer.alloc(14);
  data.writeUInt16BE(INFO.blockSize, 0);
  data.writeUInt32BE(minimumBytes, 2);
  data.writeUInt32BE(BLOCK_SIZE.preferred, 6);
  data.writeUInt32BE(LIMITS.nbdPayloadBytes, 10);
  return optionReply(option, REPLY.info, data);
}

function utf8(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  assert(bytes.length <= LIMITS.nbdStringBytes, 'an NBD string is at most 4096 bytes');
  return bytes;
}
