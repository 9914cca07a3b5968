/**
 * Windows' wnbd as nbd.md 6 describes it, at its plainest: EXPORT_NAME, simple replies, blocks of
 * 512 bytes, transfers up to 2 MiB, and FLUSH and TRIM with the fields of the write before.
 */
import { expect } from 'vitest';
import { CMD, OPT, option, request } from './nbd-wire.js';
import { Random } from './random.js';
import type { RawSocket } from './raw-socket.js';

const MIB = 2 ** 20;
const SIMPLE_REPLY = 0x67446698;

/** From where the next thing to send is an option; the client agreed to leave out zeroes. */
export async function wnbdAttach(
  raw: RawSocket,
  exportName: string,
  sizeBytes: number,
): Promise<void> {
  raw.send(option(OPT.exportName, Buffer.from(exportName)));
  const reply = await raw.receive(10);
  expect(reply.readBigUInt64BE(0)).toBe(BigInt(sizeBytes));
}

/** One request that must succeed; what it read. */
export async function wnbdAsk(
  raw: RawSocket,
  fields: Parameters<typeof request>[0],
): Promise<Buffer> {
  raw.send(request(fields));
  const reply = await raw.receive(16);
  expect(reply.readUInt32BE(0)).toBe(SIMPLE_REPLY);
  expect(reply.readUInt32BE(4)).toBe(0);
  expect(reply.readBigUInt64BE(8)).toBe(fields.cookie ?? 1n);
  return raw.receive(fields.type === CMD.read ? (fields.length ?? 0) : 0);
}

/** Writes, flushes with junk, reads back and trims up to 24 MiB of a LUN, and leaves. */
export async function wnbdSession(raw: RawSocket): Promise<void> {
  const random = new Random(4);
  const sizes = [512, 1024, 3584, 65_536, 66_048, 2 * MIB];
  for (const [index, size] of sizes.entries()) {
    const [offset, data] = [512 * 7 + index * 4 * MIB, random.bytes(size)];
    const cookie = BigInt(index) << 40n;
    await wnbdAsk(raw, { type: CMD.write, flags: index % 2, cookie, offset, data });
    await wnbdAsk(raw, { type: CMD.flush, cookie, offset, length: size });
    const read = await wnbdAsk(raw, { type: CMD.read, cookie, offset, length: size });
    expect(read.equals(data)).toBe(true);
    await wnbdAsk(raw, { type: CMD.trim, cookie, offset, length: size });
  }
  raw.send(request({ type: CMD.disconnect, cookie: 9n, offset: 512, length: 512 }));
  expect(await raw.receiveUntilClosed()).toHaveLength(0);
}
