/**
 * Hand-over to somebody who really takes the descriptor: a child process that inherits it and
 * echoes. Every byte must come back once, and nothing may be closed under the child.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Adopt, checkDescriptorsShown, handOver } from '../../../src/nbd/hand-over.js';
import { type Scope, scoped } from '../../helpers/cleanup.js';
import { Random } from '../../helpers/random.js';
import { RawSocket } from '../../helpers/raw-socket.js';

/** Writes the leftover, then what it reads, until it reads the end. */
const ECHO = `
  process.stdout.write(Buffer.from(process.argv[1], 'hex'));
  process.stdin.pipe(process.stdout);
`;

/** spawn() duplicates the descriptor before it returns, as the engine does. */
function echoInChild(scope: Scope): Adopt {
  return (fd, leftover) => {
    const child = spawn(process.execPath, ['-e', ECHO, Buffer.from(leftover).toString('hex')], {
      stdio: [fd, fd, 'inherit'],
    });
    scope.defer('stop the child', () => child.kill());
    return child.pid ?? 0;
  };
}

type Address = { port: number; host: string } | { path: string };

async function listen(
  scope: Scope,
  transport: 'tcp' | 'unix',
  onSocket: (socket: Socket) => void,
): Promise<Address> {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, onSocket);
  const path = join(await scope.tempDir(), 's');
  server.listen(transport === 'tcp' ? { host: '127.0.0.1', port: 0 } : { path });
  await once(server, 'listening');
  scope.defer('close the server', () => server.close());
  checkDescriptorsShown(server);
  const address = server.address();
  return typeof address === 'object' && address
    ? { host: address.address, port: address.port }
    : { path };
}

/** What a negotiation does: reads some bytes, answers, and hands over when the answer is out. */
function handOverAfter(count: number, adopt: Adopt): (socket: Socket) => void {
  return (socket) => {
    let seen = Buffer.alloc(0);
    const onReadable = (): void => {
      const chunk = socket.read() as Buffer | null;
      if (chunk) seen = Buffer.concat([seen, chunk]);
      if (seen.length < count) return;
      socket.removeListener('readable', onReadable);
      socket.write('ok', () => handOver(socket, seen.subarray(count), adopt));
    };
    socket.on('readable', onReadable);
  };
}

/** A negotiation that is slow to answer, while the stream has already read on by itself. */
function handOverLate(count: number, adopt: Adopt): (socket: Socket) => void {
  return (socket) => {
    const onReadable = (): void => {
      if (socket.readableLength < count) return;
      socket.removeListener('readable', onReadable);
      socket.read(count);
      socket.write('ok', () => {
        const whenBuffered = (): void => {
          if (socket.readableLength === 0) setImmediate(whenBuffered);
          else handOver(socket, Buffer.alloc(0), adopt);
        };
        whenBuffered();
      });
    };
    socket.on('readable', onReadable);
  };
}

describe.each(['tcp', 'unix'] as const)('over %s', (transport) => {
  test('bytes before, around and after it all come back, once and in order', () =>
    scoped(async (scope) => {
      const address = await listen(scope, transport, handOverAfter(8, echoInChild(scope)));
      const client = await RawSocket.open(address);
      scope.defer('close', () => client.close());
      const noise = new Random(1).bytes(600_000);
      // The first piece carries bytes behind the handshake; the rest arrives while it is going on.
      client.send(Buffer.from('8 bytes!'), noise.subarray(0, 3000));
      client.send(noise.subarray(3000));
      expect((await client.receive(2)).toString()).toBe('ok');
      expect((await client.receive(noise.length)).equals(noise)).toBe(true);
      client.send(Buffer.from('still here'));
      expect((await client.receive(10)).toString()).toBe('still here');
      client.socket.end();
      expect(await client.receiveUntilClosed()).toHaveLength(0);
    }));

  test('bytes that Node has read but nobody has taken come back too', () =>
    scoped(async (scope) => {
      const address = await listen(scope, transport, handOverLate(8, echoInChild(scope)));
      const client = await RawSocket.open(address);
      scope.defer('close', () => client.close());
      client.send(Buffer.from('8 bytes!'));
      expect((await client.receive(2)).toString()).toBe('ok');
      const noise = new Random(2).bytes(50_000);
      client.send(noise);
      expect((await client.receive(noise.length)).equals(noise)).toBe(true);
    }));

  test('a client that has already ended its side gets all its answers', () =>
    scoped(async (scope) => {
      const address = await listen(scope, transport, handOverAfter(8, echoInChild(scope)));
      const client = await RawSocket.open(address);
      scope.defer('close', () => client.close());
      client.send(Buffer.from('8 bytes!and more'));
      client.socket.end();
      expect((await client.receiveUntilClosed()).toString()).toBe('okand more');
    }));

  test('when the taker refuses, the client is closed and the error passed on', () =>
    scoped(async (scope) => {
      const errors: unknown[] = [];
      const address = await listen(scope, transport, (socket) => {
        try {
          handOver(socket, Buffer.alloc(0), () => {
            throw new Error('no room');
          });
        } catch (error) {
          errors.push(error);
        }
      });
      const client = await RawSocket.open(address);
      scope.defer('close', () => client.close());
      expect(await client.receiveUntilClosed()).toHaveLength(0);
      expect(errors).toMatchObject([{ message: 'no room' }]);
    }));

  test('a socket that is gone is an error and is not passed on', () =>
    scoped(async (scope) => {
      const sockets: Socket[] = [];
      const address = await listen(scope, transport, (socket) => void sockets.push(socket));
      const client = await RawSocket.open(address);
      scope.defer('close', () => client.close());
      while (sockets.length === 0) await new Promise(setImmediate);
      const [socket] = sockets;
      socket?.destroy();
      expect(
        () => socket && handOver(socket, Buffer.alloc(0), () => expect.unreachable('adopted')),
      ).toThrow(/the client left/);
    }));
});

test('a server that does not listen shows no descriptor', () => {
  expect(() => checkDescriptorsShown(createServer())).toThrow(/Use Node 20/);
});
