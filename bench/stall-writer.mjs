/**
 * Writes 4 KiB at random places of LUNs, one request in flight on each, and notes how long each
 * took. A process of its own, so that its event loop is not the one that makes the establishes.
 *
 * Messages: in {from, to}: answers with the longest write of each LUN that overlaps these times
 * (hrtime nanoseconds, one clock for all processes); in {end}: ends.
 */

import net from 'node:net';
import process from 'node:process';

const [socketPath, rangeText, ...names] = process.argv.slice(2);
const RANGE_BLOCKS = Number(rangeText) / 4096;
const BLOCK = Buffer.alloc(4096, 0x5a);
const KEPT_MS = 5_000;

const now = () => Number(process.hrtime.bigint());

/** Bytes as they come in. */
class Input {
  #chunks = Buffer.alloc(0);
  #wanted = undefined;

  constructor(socket) {
    socket.on('data', (chunk) => {
      this.#chunks = Buffer.concat([this.#chunks, chunk]);
      this.#serve();
    });
  }

  take(bytes) {
    return new Promise((resolve) => {
      this.#wanted = { bytes, resolve };
      this.#serve();
    });
  }

  #serve() {
    const wanted = this.#wanted;
    if (wanted === undefined || this.#chunks.length < wanted.bytes) return;
    this.#wanted = undefined;
    const taken = this.#chunks.subarray(0, wanted.bytes);
    this.#chunks = this.#chunks.subarray(wanted.bytes);
    wanted.resolve(taken);
  }
}

/** Fixed newstyle, EXPORT_NAME: the shortest of the handshakes. */
async function attach(name) {
  const socket = net.connect(socketPath);
  const input = new Input(socket);
  await input.take(18);
  const option = Buffer.alloc(4 + 16 + name.length);
  option.writeUInt32BE(3, 0); // fixed newstyle, no zeroes
  option.write('IHAVEOPT', 4, 'latin1');
  option.writeUInt32BE(1, 12);
  option.writeUInt32BE(name.length, 16);
  option.write(name, 20, 'latin1');
  socket.write(option);
  await input.take(10);
  return { socket, input };
}

async function write(name, log) {
  const { socket, input } = await attach(name);
  const header = Buffer.alloc(28);
  header.writeUInt32BE(0x25609513, 0);
  header.writeUInt16BE(1, 6);
  header.writeUInt32BE(BLOCK.length, 24);
  for (;;) {
    header.writeBigUInt64BE(BigInt(Math.floor(Math.random() * RANGE_BLOCKS)) * 4096n, 16);
    const begun = now();
    socket.write(header);
    socket.write(BLOCK);
    const reply = await input.take(16);
    if (reply.readUInt32BE(4) !== 0) throw new Error(`write failed: ${reply.readUInt32BE(4)}`);
    const ended = now();
    log.push({ begun, ended });
    if (log.length > 4096) while (log[0].ended < ended - KEPT_MS * 1e6) log.shift();
  }
}

const logs = names.map(() => []);
for (const [at, name] of names.entries()) {
  write(name, logs[at]).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}
process.on('message', ({ from, to, end }) => {
  if (end) process.exit(0);
  // Those in flight when the question comes have to be waited for.
  const answer = () => {
    if (logs.some((log) => log.length === 0 || log.at(-1).ended < to)) return setTimeout(answer, 2);
    const longest = logs.map((log) =>
      Math.max(
        ...log
          .filter((one) => one.ended > from && one.begun < to)
          .map((one) => one.ended - one.begun),
      ),
    );
    process.send({ longestMs: longest.map((ns) => ns / 1e6) });
  };
  answer();
});
process.send({ ready: true });
