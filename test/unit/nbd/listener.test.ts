/** The listener over real sockets, up to the hand-over; what comes after is test/integration's. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { createLogger } from '../../../src/base/log.js';
import {
  type NbdListenerOptions,
  type NbdServer,
  startNbdListeners,
} from '../../../src/nbd/listener.js';
import { type Scope, scoped } from '../../helpers/cleanup.js';
import {
  clientFlags,
  decodeReplies,
  go,
  GREETING,
  OPT,
  option,
  REP,
} from '../../helpers/nbd-wire.js';
import { RawSocket } from '../../helpers/raw-socket.js';
import { until } from '../../helpers/wait.js';
import { CATALOG, fullCatalog } from './catalog.js';

/** No test of this file comes as far as the engine. */
const NO_ENGINE: NbdListenerOptions['engine'] = {
  adopt: () => {
    throw new Error('nothing was negotiated');
  },
  resume: () => {
    throw new Error('nothing was taken over');
  },
  disconnect: () => {
    throw new Error('nothing was connected');
  },
  connections: () => [],
  park: () => Promise.resolve([]),
  unpark: () => undefined,
};

const LOOPBACK = { host: '127.0.0.1', port: 0 };

interface Started {
  readonly server: NbdServer;
  readonly port: number;
  readonly unixPath: string;
  readonly lines: string[];
}

async function start(scope: Scope, options: Partial<NbdListenerOptions> = {}): Promise<Started> {
  const lines: string[] = [];
  const log = createLogger({ level: 'debug', stream: { write: (line) => void lines.push(line) } });
  const unixPath = options.unixPath ?? join(await scope.tempDir(), 'nbd.sock');
  const server = await startNbdListeners({
    engine: NO_ENGINE,
    catalog: CATALOG,
    tcp: LOOPBACK,
    log,
    ...options,
    unixPath,
  });
  scope.defer('close the listeners', () => server.close());
  return { server, port: server.addresses().tcp?.port ?? 0, unixPath, lines };
}

async function connect(scope: Scope, address: { port: number } | { path: string }) {
  const client = await RawSocket.open(
    'port' in address ? { host: '127.0.0.1', port: address.port } : address,
  );
  scope.defer('close the client', () => client.close());
  return client;
}

/** Connects and takes the greeting. */
async function greeted(scope: Scope, address: { port: number } | { path: string }) {
  const client = await connect(scope, address);
  expect(await client.receive(GREETING.length)).toEqual(GREETING);
  return client;
}

/** Waits for a line: a client may see its connection close before we have told the log. */
async function logged({ lines }: Started, text: string): Promise<void> {
  await until(`a line with '${text}'`, () => lines.some((line) => line.includes(text)), {
    deadlineMs: 5000,
    diagnosis: () => lines.join(''),
  });
}

describe.each(['tcp', 'unix'] as const)('over %s', (transport) => {
  const addressOf = ({ port, unixPath }: Started) =>
    transport === 'tcp' ? { port } : { path: unixPath };

  test('LIST, a refused GO, ABORT', () =>
    scoped(async (scope) => {
      const client = await greeted(scope, addressOf(await start(scope)));
      client.send(clientFlags(), option(OPT.list), go('1204'), option(OPT.abort));
      const replies = decodeReplies(await client.receiveUntilClosed());
      expect(replies.map(({ option: number, type }) => [number, type])).toEqual([
        [OPT.list, REP.server],
        [OPT.list, REP.server],
        [OPT.list, REP.ack],
        [OPT.go, REP.unknown],
        [OPT.abort, REP.ack],
      ]);
      expect(replies[3]?.data.toString()).toContain("no export '1204'");
    }));

  test('a large LIST arrives whole', () =>
    scoped(async (scope) => {
      const client = await greeted(
        scope,
        addressOf(await start(scope, { catalog: fullCatalog(200) })),
      );
      client.send(clientFlags(), option(OPT.list), option(OPT.abort));
      expect(decodeReplies(await client.receiveUntilClosed())).toHaveLength(4096 + 2);
    }));

  test('a client that says no more than it needs still gets its answers', () =>
    scoped(async (scope) => {
      const client = await greeted(scope, addressOf(await start(scope)));
      client.send(clientFlags(), option(OPT.list));
      client.socket.end();
      expect(decodeReplies(await client.receiveUntilClosed())).toHaveLength(3);
    }));

  test.each([
    ['unknown client flags', clientFlags(0x80)],
    ['a wrong magic', Buffer.concat([clientFlags(), Buffer.from('GET / HTTP/1.1\r\n\r\n')])],
    [
      'EXPORT_NAME of no export',
      Buffer.concat([clientFlags(), option(OPT.exportName, Buffer.from('1204'))]),
    ],
    ['too much data', Buffer.concat([clientFlags(), option(12, Buffer.alloc(0), 0xffffffff)])],
  ])('%s: closed without a word', (_name, bytes) =>
    scoped(async (scope) => {
      const client = await greeted(scope, addressOf(await start(scope)));
      client.send(bytes);
      expect(await client.receiveUntilClosed()).toHaveLength(0);
    }),
  );

  test('a silent client is dropped at the deadline', () =>
    scoped(async (scope) => {
      const started = await start(scope, { handshakeMs: 50 });
      const client = await greeted(scope, addressOf(started));
      expect(await client.receiveUntilClosed()).toHaveLength(0);
      await logged(started, 'negotiation took longer than 0.05 s');
    }));

  test('so is one that keeps asking', () =>
    scoped(async (scope) => {
      const client = await greeted(scope, addressOf(await start(scope, { handshakeMs: 200 })));
      client.send(clientFlags());
      let isOpen = true;
      client.socket.once('close', () => {
        isOpen = false;
      });
      const byte = option(OPT.list).subarray(0, 1);
      await until('the end', () => (isOpen ? (client.send(byte), false) : true), {
        deadlineMs: 5000,
      });
    }));
});

describe('logging', () => {
  test('what a client was refused is told once, a lost one only at debug', () =>
    scoped(async (scope) => {
      const started = await start(scope);
      const lost = await greeted(scope, started);
      lost.close();
      await logged(started, 'client left');
      const refused = await greeted(scope, started);
      refused.send(clientFlags(), option(OPT.exportName, Buffer.from('1204')));
      await refused.receiveUntilClosed();
      await logged(started, 'refused');
      const levels = started.lines.map((line) => (JSON.parse(line) as { level: string }).level);
      expect(levels).toEqual(['debug', 'debug', 'info']);
      expect(started.lines[2]).toContain("no export '1204'");
    }));

  test('a goodbye is told when the client has closed, whatever it sent behind', () =>
    scoped(async (scope) => {
      const started = await start(scope);
      const client = await greeted(scope, started);
      client.send(clientFlags(), option(OPT.abort), Buffer.alloc(300_000));
      expect(decodeReplies(await client.receiveUntilClosed())).toHaveLength(1);
      client.socket.end();
      await logged(started, '"cause":"abort"');
    }));

  test('a catalog that fails costs one connection', () =>
    scoped(async (scope) => {
      const catalog = {
        list: () => [],
        example: () => undefined,
        resolve: (name: string) => {
          if (name === 'bad') throw new Error('the array is broken');
          return CATALOG.resolve(name);
        },
      };
      const started = await start(scope, { catalog });
      const client = await greeted(scope, started);
      client.send(clientFlags(), go('bad'));
      expect(await client.receiveUntilClosed()).toHaveLength(0);
      const next = await greeted(scope, started);
      next.send(clientFlags(), option(OPT.abort));
      expect(decodeReplies(await next.receiveUntilClosed())).toHaveLength(1);
      await logged(started, 'the array is broken');
    }));
});

describe('the limit on negotiations', () => {
  test('one more is turned away, and the place of one that leaves is free again', () =>
    scoped(async (scope) => {
      const started = await start(scope, { caps: { handshakes: 2 } });
      const first = await greeted(scope, started);
      await greeted(scope, started);
      for (let i = 0; i < 3; i += 1) {
        const third = await connect(scope, started);
        expect(await third.receiveUntilClosed()).toHaveLength(0);
      }
      expect(started.lines.filter((line) => line.includes('too many clients'))).toHaveLength(1);
      first.send(clientFlags(), option(OPT.abort));
      await first.receiveUntilClosed();
      first.close();
      await until(
        'a free place',
        async () => {
          const client = await connect(scope, started);
          return client.receive(GREETING.length).then(
            () => true,
            () => false,
          );
        },
        { deadlineMs: 5000 },
      );
    }));

  test('is of each listener: silent TCP clients do not keep the unix socket from others', () =>
    scoped(async (scope) => {
      const started = await start(scope, { caps: { handshakes: 1 } });
      await greeted(scope, started);
      const local = await greeted(scope, { path: started.unixPath });
      local.send(clientFlags(), option(OPT.abort));
      expect(decodeReplies(await local.receiveUntilClosed())).toHaveLength(1);
    }));
});

describe('addresses', () => {
  test('are the real ones, and the unix socket is for its owner alone', () =>
    scoped(async (scope) => {
      const { server, unixPath } = await start(scope);
      const { tcp, unix } = server.addresses();
      expect(tcp).toEqual({ host: '127.0.0.1', port: expect.any(Number) });
      expect(tcp?.port).toBeGreaterThan(0);
      expect(unix).toBe(unixPath);
      expect((await stat(unixPath)).mode & 0o777).toBe(0o600);
      expect(server.connections()).toEqual([]);
    }));

  test('none is fine too', () =>
    scoped(async (scope) => {
      const log = createLogger({ level: 'silent' });
      const server = await startNbdListeners({ engine: NO_ENGINE, catalog: CATALOG, log });
      scope.defer('close', () => server.close());
      expect(server.addresses()).toEqual({});
    }));

  test('a port in use is refused with the address and the way out', () =>
    scoped(async (scope) => {
      const { port } = await start(scope);
      await expect(start(scope, { tcp: { host: '127.0.0.1', port } })).rejects.toMatchObject({
        code: 'ADDRESS_IN_USE',
        message: expect.stringMatching(
          new RegExp(`127\\.0\\.0\\.1:${port}: another program uses it.*--nbd HOST:PORT`),
        ),
      });
    }));

  test('an address of another machine is refused', () =>
    scoped(async (scope) => {
      await expect(start(scope, { tcp: { host: '192.0.2.1', port: 0 } })).rejects.toMatchObject({
        code: 'ADDRESS_UNUSABLE',
        message: expect.stringMatching(/192\.0\.2\.1:0: this machine has no such address/),
      });
    }));

  test('when one address fails, the other is let go of', () =>
    scoped(async (scope) => {
      const probe = createServer().listen(0, '127.0.0.1');
      await once(probe, 'listening');
      const address = probe.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      probe.close();
      await once(probe, 'close');
      const unixPath = join(await scope.tempDir(), 'no', 'such', 'folder.sock');
      const tcp = { host: '127.0.0.1', port };
      await expect(start(scope, { tcp, unixPath })).rejects.toMatchObject({
        code: 'ADDRESS_UNUSABLE',
        message: expect.stringMatching(/there is no folder .*such.*--nbd-unix PATH/),
      });
      await start(scope, { tcp });
    }));
});

describe('a unix path that exists', () => {
  test('left by a killed server is replaced', () =>
    scoped(async (scope) => {
      const path = join(await scope.tempDir(), 'nbd.sock');
      const script = 'require("net").createServer().listen(process.argv[1], () => console.log())';
      const child = spawn(process.execPath, ['-e', script, path], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await once(child.stdout, 'data');
      child.kill('SIGKILL');
      await once(child, 'exit');
      expect((await stat(path)).isSocket()).toBe(true);
      await start(scope, { unixPath: path });
      await greeted(scope, { path });
    }));

  test('of a live server is refused, and that server goes on', () =>
    scoped(async (scope) => {
      const { unixPath } = await start(scope);
      await expect(start(scope, { unixPath })).rejects.toMatchObject({
        code: 'ADDRESS_IN_USE',
        message: expect.stringMatching(/another server answers there.*--nbd-unix PATH/),
      });
      await greeted(scope, { path: unixPath });
    }));

  test('as a file is refused and left alone', () =>
    scoped(async (scope) => {
      const path = join(await scope.tempDir(), 'precious');
      await writeFile(path, 'data');
      await expect(start(scope, { unixPath: path })).rejects.toMatchObject({
        code: 'ADDRESS_IN_USE',
        message: expect.stringContaining('not a socket'),
      });
      expect((await stat(path)).size).toBe(4);
    }));

  test('too long is refused', () =>
    scoped(async (scope) => {
      const unixPath = join(await scope.tempDir(), 'x'.repeat(100));
      await expect(start(scope, { unixPath })).rejects.toMatchObject({
        code: 'ADDRESS_UNUSABLE',
        message: expect.stringContaining('at most 107 bytes'),
      });
    }));
});

describe('close', () => {
  test('drops negotiations, frees the addresses, and may be called twice', () =>
    scoped(async (scope) => {
      const started = await start(scope);
      const client = await greeted(scope, started);
      const startedAt = performance.now();
      const closing = started.server.close();
      expect(started.server.close()).toBe(closing);
      await closing;
      // Far below the 10 s after which negotiations end by themselves.
      expect(performance.now() - startedAt).toBeLessThan(5_000);
      expect(await client.receiveUntilClosed()).toHaveLength(0);
      await expect(stat(started.unixPath)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(connect(scope, started)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
      await start(scope, { tcp: { host: '127.0.0.1', port: started.port } });
    }));
});
