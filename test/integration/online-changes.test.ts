// Changes under a live client: resize, resync, reverse, by the command line, over NBD.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { type Server, startServer } from '../helpers/server.js';

const MIB = 1 << 20;
const BLOCK = 4096;
const scope = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(scope);
});

afterAll(() => scope.close());

/** Runs a command line that must succeed; its stdout. */
async function flashlun(line: string): Promise<string> {
  const { code, stdout, stderr } = await server.flashlun(...line.split(' '));
  expect({ line, code, stderr }).toEqual({ line, code: 0, stderr: '' });
  return stdout;
}

/** A command line that a rule refuses; its message. */
async function refused(line: string): Promise<string> {
  const { code, stderr } = await server.flashlun(...line.split(' '));
  expect({ line, code }).toEqual({ line, code: 6 });
  return stderr;
}

async function open(own: Scope, name: string): Promise<NbdClient> {
  const client = await NbdClient.open({ path: server.unixPath }, name);
  own.defer('close the client', () => client.close());
  return client;
}

/** The first byte of a LUN, read by a connection of its own. */
async function firstByte(name: string): Promise<number | undefined> {
  return scoped(async (own) => (await (await open(own, name)).read(0, 1))[0]);
}

test('resize grows a LUN under a client that writes; a new connection sees it', () =>
  scoped(async (own) => {
    await flashlun('volume create --id 1a10 --size 1M');
    const client = await open(own, '1A10');
    const block = Buffer.alloc(BLOCK, 0x5a);
    const stop = new AbortController();
    const writing = (async () => {
      let writes = 0;
      for (; !stop.signal.aborted; writes += 1) {
        await client.write((writes % (MIB / BLOCK)) * BLOCK, block);
      }
      return writes;
    })();
    expect(await flashlun('volume resize 1A10 --size 3M')).toBe(
      'Volume 1A10 has 3.0 MiB. Its clients see it when they connect again.\n',
    );
    expect(client.sizeBytes).toBe(MIB);
    const again = await open(own, '1A10');
    expect(again.sizeBytes).toBe(3 * MIB);
    await again.write(3 * MIB - BLOCK, block);
    expect(await again.read(3 * MIB - 2 * BLOCK, 2 * BLOCK)).toEqual(
      Buffer.concat([Buffer.alloc(BLOCK), block]),
    );
    stop.abort();
    expect(await writing).toBeGreaterThan(0);
    // The old connection keeps its size: what is behind it is out of range.
    await expect(client.write(MIB, block)).rejects.toThrow(/NBD error/);
    expect(await client.read(0, BLOCK)).toEqual(block);
    expect(await refused('volume resize 1A10 --size 1M')).toMatch(/volumes only grow/);
  }));

test('resync takes the source as it is now; reverse brings the copy back', () =>
  scoped(async (own) => {
    await flashlun('volume create --id 1b00 --size 1M');
    await flashlun('volume create --id 1b01 --size 1M');
    await flashlun('flashcopy establish 1B00:1B01 --nocopy');
    const host = await open(own, '1B00');
    await host.write(0, Buffer.alloc(BLOCK, 0xa5));
    expect(await firstByte('1B01')).toBe(0);
    expect(await flashlun('flashcopy resync 1B00:1B01 --nocopy')).toMatch(
      /^Resynced 1B00:1B01: T0 is \d{4}-\d\d-\d\d /,
    );
    expect(await firstByte('1B01')).toBe(0xa5);
    await host.write(0, Buffer.alloc(BLOCK, 0xee));
    expect(await flashlun('flashcopy reverse 1B00:1B01 --fast --nocopy')).toBe(
      'Reversed: 1B00 is now the target of 1B01.\n',
    );
    // The connection that was there all the time sees it too.
    expect((await host.read(0, 1))[0]).toBe(0xa5);
    const list = await flashlun('flashcopy list --json');
    expect(JSON.parse(list)).toMatchObject({ flashcopies: [{ id: '1B01:1B00' }] });
    await flashlun('volume resize 1B01 --size 2M');
    expect(await refused('flashcopy reverse 1B01:1B00 --fast')).toMatch(/differ in size/);
    expect(await refused('flashcopy resync 1B01:1B00')).toMatch(/is smaller than/);
    await flashlun('flashcopy withdraw 1B01:1B00');
    expect(await refused('flashcopy resync 1B01:1B00')).toMatch(/no relationship/);
  }));
