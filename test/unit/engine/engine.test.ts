/** The engine facade over the real addon: what each call answers, its errors, and lifetimes. */
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { type Engine, openEngine, openedEngine, sdNotify } from '../../../src/engine/index.js';
import type { AdoptOptions } from '../../../src/engine/types.js';
import { type Scope, scoped } from '../../helpers/cleanup.js';
import { CMD, request } from '../../helpers/nbd-wire.js';
import { RawSocket } from '../../helpers/raw-socket.js';
import { until } from '../../helpers/wait.js';
import { serve } from './served.js';

const MIB = 2 ** 20;
const DEADLINE = { deadlineMs: 10_000 };
const ADDON = fileURLToPath(
  new URL('../../../native/build/Release/flashlun_native.node', import.meta.url),
);
const READ_WRITE: AdoptOptions = {
  volumeId: 0x1203,
  readOnly: false,
  replies: 'simple',
  contexts: [],
  minBlockBytes: 1,
};

async function open(scope: Scope, dir?: string): Promise<{ engine: Engine; dir: string }> {
  const pool = dir ?? join(await scope.tempDir(), 'pool');
  const engine = await openEngine({ dir: pool, capacityBytes: 2 ** 30 });
  scope.defer('close the engine', () => engine.close());
  return { engine, dir: pool };
}

async function openWithVolume(scope: Scope): Promise<{ engine: Engine; dir: string }> {
  const opened = await open(scope);
  await opened.engine.createVolume(0x1203, 16 * MIB, 'payroll');
  return opened;
}

const DISCONNECT = request({ type: CMD.disconnect });

function simpleReply(cookie: number): Buffer {
  const wire = Buffer.alloc(16);
  wire.writeUInt32BE(0x67446698, 0);
  wire.writeUInt32BE(cookie, 12);
  return wire;
}

describe('pool', () => {
  test('volumes survive closing and opening', () =>
    scoped(async (scope) => {
      const { engine, dir } = await openWithVolume(scope);
      await engine.close();
      const again = await open(scope, dir);
      expect(again.engine.volume(0x1203)).toMatchObject({ name: 'payroll', sizeBytes: 16 * MIB });
      expect(again.engine.info()).toMatchObject({ recoveredUnclean: false, poisoned: '' });
    }));

  test('a second opening is refused, in whatever spelling', () =>
    scoped(async (scope) => {
      const { dir } = await open(scope);
      const refused = openEngine({ dir: `${dir}/../pool` });
      await expect(refused).rejects.toMatchObject({ code: 'LOCKED' });
    }));

  test('openedEngine finds what is open and nothing else', () =>
    scoped(async (scope) => {
      const { dir } = await openWithVolume(scope);
      expect(openedEngine(dir).volumes()).toHaveLength(1);
      expect(() => openedEngine('/nowhere')).toThrow(
        expect.objectContaining({ code: 'NOT_FOUND' }) as Error,
      );
    }));

  test('close twice is one close; any other call after it says CLOSED', () =>
    scoped(async (scope) => {
      const { engine } = await openWithVolume(scope);
      await Promise.all([engine.close(), engine.close()]);
      await expect(engine.flush()).rejects.toMatchObject({ code: 'CLOSED' });
      expect(() => engine.volumes()).toThrow(expect.objectContaining({ code: 'CLOSED' }) as Error);
      engine.disconnect(1);
    }));

  test('sdNotify is false without systemd', () => {
    expect(process.env['NOTIFY_SOCKET']).toBeUndefined();
    expect(sdNotify('READY=1')).toBe(false);
  });
});

describe('volumes and relationships', () => {
  test('refusals carry the codes of the engine', () =>
    scoped(async (scope) => {
      const { engine } = await openWithVolume(scope);
      const refusals: [string, () => Promise<unknown>][] = [
        ['EXISTS', () => engine.createVolume(0x1203, MIB, '')],
        ['INVALID', () => engine.createVolume(0x1204, 0, '')],
        ['NOT_FOUND', () => engine.deleteVolume(0x1999)],
        [
          'NOT_FOUND',
          () => engine.establish([{ sourceId: 0x1203, targetId: 0x1999, noCopy: true }]),
        ],
        ['INVALID', () => engine.establish([{ sourceId: 0x1203, targetId: 0x1203, noCopy: true }])],
        ['NOT_FOUND', () => engine.withdraw(12345)],
        ['NOT_FOUND', () => engine.resync([12345], { noCopy: true })],
        ['NOT_FOUND', () => engine.reverse([12345], { noCopy: true })],
        ['INVALID', () => engine.resizeVolume(0x1203, 65_536)],
        ['NOT_FOUND', () => engine.resizeVolume(0x1999, MIB)],
      ];
      for (const [code, refusal] of refusals) {
        await expect(refusal()).rejects.toMatchObject({ code });
      }
      expect(engine.volume(0x1999)).toBeUndefined();
    }));

  test.each([-1, 1.5, Number.NaN, 65_536])('volume id %d is refused', (id) =>
    scoped(async (scope) => {
      const { engine } = await open(scope);
      expect(() => engine.volume(id)).toThrow(
        expect.objectContaining({ code: 'INVALID' }) as Error,
      );
    }),
  );

  test('a relationship is established, listed, and withdrawn', () =>
    scoped(async (scope) => {
      const { engine } = await openWithVolume(scope);
      await engine.createVolume(0x1303, 16 * MIB, '');
      const pair = { sourceId: 0x1203, targetId: 0x1303, noCopy: true };
      const [id] = await engine.establish([pair]);
      expect(engine.relationships()).toMatchObject([{ id, ...pair, totalTracks: 256 }]);
      await engine.resync([id!], pair);
      await engine.reverse([id!], pair);
      const reversed = { sourceId: pair.targetId, targetId: pair.sourceId };
      expect(engine.relationships()).toMatchObject([{ id, ...reversed, totalTracks: 256 }]);
      await engine.resizeVolume(0x1303, 32 * MIB);
      expect(engine.volume(0x1303)?.sizeBytes).toBe(32 * MIB);
      await expect(engine.resync([id!], pair)).rejects.toMatchObject({ code: 'INVALID' });
      await engine.withdraw(id!);
      expect(engine.relationships()).toEqual([]);
    }));

  test('copyBatch of a relationship that is gone says NOT_FOUND', () =>
    scoped(async (scope) => {
      const { engine } = await open(scope);
      expect(() => engine.copyBatch(1, 0, 16)).toThrow(
        expect.objectContaining({ code: 'NOT_FOUND' }) as Error,
      );
    }));
});

describe('connections', () => {
  test('a client is served from the leftover on, and its end is told with counters', () =>
    scoped(async (scope) => {
      const { engine } = await openWithVolume(scope);
      const data = Buffer.alloc(5000, 'flash');
      const write = request({ type: CMD.write, cookie: 1n, offset: 100, data });
      const read = request({ type: CMD.read, cookie: 2n, offset: 100, length: data.length });
      const served = await serve(scope, engine, READ_WRITE, write.subarray(0, 1234));
      const client = await RawSocket.open({ path: served.path });
      client.send(write.subarray(1234), read);
      expect(await client.receive(16)).toEqual(simpleReply(1));
      expect(await client.receive(16)).toEqual(simpleReply(2));
      expect(await client.receive(data.length)).toEqual(data);
      expect(engine.volume(0x1203)).toMatchObject({ attached: 1, writeOps: 1, readBytes: 5000 });
      client.send(DISCONNECT);
      await until('the end', () => served.closed.length === 1, DEADLINE);
      const bytesIn = write.length + 2 * 28;
      expect(served.closed).toEqual([
        { reason: 'disconnect', detail: '', requests: 3, bytesIn, bytesOut: 32 + data.length },
      ]);
      expect(engine.volume(0x1203)).toMatchObject({ attached: 0 });
      await engine.deleteVolume(0x1203);
    }));

  test('an attached volume is not deleted; disconnect frees it', () =>
    scoped(async (scope) => {
      const { engine } = await openWithVolume(scope);
      const served = await serve(scope, engine, READ_WRITE);
      const client = await RawSocket.open({ path: served.path });
      await until('the connection', () => served.ids.length === 1, DEADLINE);
      await expect(engine.deleteVolume(0x1203)).rejects.toMatchObject({ code: 'BUSY' });
      engine.disconnect(served.ids[0]!);
      expect(await client.receiveUntilClosed()).toHaveLength(0);
      await until('the end', () => served.closed.length === 1, DEADLINE);
      expect(served.closed).toMatchObject([{ reason: 'stopped' }]);
      await engine.deleteVolume(0x1203);
    }));

  test('a violation closes the connection and says which', () =>
    scoped(async (scope) => {
      const { engine } = await openWithVolume(scope);
      const served = await serve(scope, engine, READ_WRITE);
      const client = await RawSocket.open({ path: served.path });
      client.send(Buffer.alloc(28));
      expect(await client.receiveUntilClosed()).toHaveLength(0);
      await until('the end', () => served.closed.length === 1, DEADLINE);
      expect(served.closed).toMatchObject([{ reason: 'protocol', detail: 'bad request magic' }]);
    }));

  test('closing the engine ends its connections and tells of them', () =>
    scoped(async (scope) => {
      const { engine } = await openWithVolume(scope);
      const served = await serve(scope, engine, READ_WRITE);
      const clients = [];
      for (let i = 0; i < 5; i++) clients.push(await RawSocket.open({ path: served.path }));
      await until('the connections', () => served.ids.length === 5, DEADLINE);
      await engine.close();
      for (const client of clients) expect(await client.receiveUntilClosed()).toHaveLength(0);
      await until('all ends', () => served.closed.length === 5, DEADLINE);
    }));

  test('an unknown volume is refused', () =>
    scoped(async (scope) => {
      const { engine } = await open(scope);
      const adopt = () => engine.adopt(0, READ_WRITE, new Uint8Array(), () => undefined);
      expect(adopt).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }) as Error);
    }));
});

/** The only place where an environment is torn down for real while native threads run. */
describe('worker threads', () => {
  /** Loads the addon by itself, finds the pool, and adopts one client of the listener at `path`. */
  const WORKER = `
    const { workerData, parentPort } = require('node:worker_threads');
    const native = require(workerData.addon);
    native.onClosed(() => parentPort.postMessage('closed'));
    const handle = native.opened(workerData.dir);
    const server = require('node:net').createServer({ pauseOnConnect: true }, (socket) => {
      const negotiated = { replies: 'simple', contexts: [], minBlockBytes: 1 };
      const rest = [new Uint8Array(), undefined, true];
      native.adopt(handle, socket._handle.fd, 0x1203, negotiated, false, ...rest);
      socket.destroy();
      if (workerData.exits) process.exit(0);
      server.close();
    });
    server.listen(workerData.path, () => parentPort.postMessage('listening'));
  `;

  async function startWorker(scope: Scope, dir: string, exits: boolean) {
    const path = join(await scope.tempDir(), 'w');
    const workerData = { addon: ADDON, dir, path, exits };
    const worker = new Worker(WORKER, { eval: true, workerData });
    scope.defer('end the worker', () => worker.terminate());
    const exited = once(worker, 'exit');
    expect(await once(worker, 'message')).toEqual(['listening']);
    return { worker, path, exited };
  }

  test('a worker that exits takes its connections along and harms nobody else', () =>
    scoped(async (scope) => {
      const { engine, dir } = await openWithVolume(scope);
      const { path, exited } = await startWorker(scope, dir, true);
      const client = await RawSocket.open({ path });
      await exited;
      expect(await client.receiveUntilClosed()).toHaveLength(0);
      await until('detached', () => engine.volume(0x1203)?.attached === 0, DEADLINE);
      await engine.flush();
    }));

  test('an open connection keeps its worker alive; its end lets it go', () =>
    scoped(async (scope) => {
      const { dir } = await openWithVolume(scope);
      const { worker, path, exited } = await startWorker(scope, dir, false);
      const told = once(worker, 'message');
      const client = await RawSocket.open({ path });
      client.send(request({ type: CMD.read, length: 1 }), DISCONNECT);
      expect(await client.receive(17)).toHaveLength(17);
      expect(await told).toEqual(['closed']);
      expect(await exited).toEqual([0]);
    }));
});
