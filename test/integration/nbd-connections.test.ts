/** The listener with the real engine in this process: who is attached, and how attachments end. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { ExportCatalog } from '../../src/array/export-catalog.js';
import { createLogger } from '../../src/base/log.js';
import { type Engine, openEngine } from '../../src/engine/index.js';
import { type NbdServer, startNbdListeners } from '../../src/nbd/listener.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { NbdPeer } from '../helpers/nbd-peer.js';
import { CMD, ERRNO, request } from '../helpers/nbd-wire.js';
import { Random } from '../helpers/random.js';
import { until } from '../helpers/wait.js';

const SIZE = 64 * 2 ** 20;
const WAIT = { deadlineMs: 10_000 };

/** Serves what the engine has, and one volume that it has not: one that was deleted just now. */
const CATALOG: ExportCatalog = {
  list: () => [],
  example: () => undefined,
  resolve: (name) => {
    const volumeId = Number.parseInt(name, 16);
    return { volumeId, name, description: '', sizeBytes: SIZE, readOnly: false };
  },
};

interface Started {
  readonly engine: Engine;
  readonly nbd: NbdServer;
  readonly tcp: { host: string; port: number };
  readonly unix: { path: string };
  readonly lines: string[];
}

async function start(scope: Scope): Promise<Started> {
  const dir = await scope.tempDir();
  const engine = await openEngine({ dir: join(dir, 'pool') });
  scope.defer('close the engine', () => engine.close());
  await engine.createVolume(0x1203, SIZE, '');
  await engine.createVolume(0x1204, SIZE, '');
  const lines: string[] = [];
  const log = createLogger({ level: 'debug', stream: { write: (line) => void lines.push(line) } });
  const path = join(dir, 'nbd.sock');
  const tcp = { host: '127.0.0.1', port: 0 };
  const nbd = await startNbdListeners({ engine, catalog: CATALOG, tcp, unixPath: path, log });
  scope.defer('close the listeners', () => nbd.close());
  return { engine, nbd, tcp: nbd.addresses().tcp ?? tcp, unix: { path }, lines };
}

async function attach(scope: Scope, address: { port: number } | { path: string }, name = '1203') {
  const peer = await NbdPeer.attach(address, name);
  scope.defer('close the client', () => peer.close());
  return peer;
}

test('attached clients are listed until they leave, politely or not', () =>
  scoped(async (scope) => {
    const { nbd, tcp, unix, engine } = await start(scope);
    const polite = await attach(scope, tcp);
    const rude = await attach(scope, unix, '1204');
    await until('both', () => nbd.connections().length === 2, WAIT);
    const [first, second] = nbd.connections();
    const port = polite.raw.socket.localPort ?? 0;
    expect(first).toMatchObject({ volumeId: 0x1203, transport: 'tcp', peer: `127.0.0.1:${port}` });
    expect(second).toMatchObject({ volumeId: 0x1204, transport: 'unix', peer: 'unix' });
    expect(Date.parse(first?.since ?? '')).toBeGreaterThan(Date.now() - 60_000);
    expect(engine.volume(0x1203)?.attached).toBe(1);
    polite.send({ type: CMD.disconnect });
    rude.close();
    await until('neither', () => nbd.connections().length === 0, WAIT);
    expect(engine.volume(0x1203)?.attached).toBe(0);
  }));

test('a volume that was deleted during negotiation closes that connection only', () =>
  scoped(async (scope) => {
    const { nbd, tcp, lines } = await start(scope);
    const late = await attach(scope, tcp, '1205');
    expect(await late.raw.receiveUntilClosed()).toHaveLength(0);
    await until('a warning', () => lines.some((line) => line.includes('"level":"warn"')), WAIT);
    const peer = await attach(scope, tcp);
    expect(await peer.ask({ type: CMD.read, length: 512 })).toMatchObject({ errno: ERRNO.ok });
    expect(nbd.connections()).toHaveLength(1);
  }));

test('close() ends every connection, also one in the middle of a request', () =>
  scoped(async (scope) => {
    const { nbd, tcp, unix, engine } = await start(scope);
    const idle = await attach(scope, unix);
    const midway = await attach(scope, tcp, '1204');
    const write = request({ type: CMD.write, data: Buffer.alloc(65_536) });
    midway.raw.send(write.subarray(0, 1000));
    const negotiating = await NbdPeer.greeted(tcp);
    await nbd.close();
    expect(nbd.connections()).toEqual([]);
    expect(engine.volumes().map(({ attached }) => attached)).toEqual([0, 0]);
    for (const raw of [idle.raw, midway.raw, negotiating]) {
      expect(await raw.receiveUntilClosed()).toHaveLength(0);
    }
  }));

test('many clients at once with writes behind GO lose no byte and leave no descriptor', () =>
  scoped(async (scope) => {
    const { nbd, tcp, unix } = await start(scope);
    const openFiles = async () => (await readdir('/proc/self/fd')).length;
    const before = await openFiles();
    const noise = new Random(7).bytes(32_768);
    const offsetOf = (index: number) => index * 2 ** 20;
    const oneClient = async (index: number): Promise<void> => {
      const behind = request({ type: CMD.write, offset: offsetOf(index), data: noise });
      const address = index % 2 === 0 ? tcp : unix;
      const peer = await NbdPeer.attach(address, '1203', { behind });
      expect(await peer.answer()).toMatchObject({ errno: ERRNO.ok });
      const read = { type: CMD.read, offset: offsetOf(index), length: noise.length };
      expect((await peer.ask(read)).data.equals(noise)).toBe(true);
      peer.send({ type: CMD.disconnect });
      await peer.raw.receiveUntilClosed();
      peer.close();
    };
    await Promise.all(Array.from({ length: 60 }, (_, index) => oneClient(index)));
    await until('all gone', () => nbd.connections().length === 0, WAIT);
    await until('the descriptors', async () => (await openFiles()) <= before, WAIT);
  }));
