// `flashlun verify` end to end: checksums survive a restart, and one bit of rot is found.
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { startServer } from '../helpers/server.js';

const TRACK = 65_536;

async function flipByte(file: string, offset: number): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, offset);
    byte[0] = byte[0]! ^ 1;
    await handle.write(byte, 0, 1, offset);
  } finally {
    await handle.close();
  }
}

test('verify gives shared tracks checksums and finds what changed under them', () =>
  scoped(async (scope) => {
    const first = await startServer(scope);
    const ok = async (line: string): Promise<string> => {
      const { code, stdout, stderr } = await first.flashlun(...line.split(' '));
      expect({ line, code, stderr }).toEqual({ line, code: 0, stderr: '' });
      return stdout;
    };
    await ok('volume create --id 1c00 --size 1M');
    await ok('volume create --id 1c01 --size 1M');
    const client = await NbdClient.open({ path: first.unixPath }, '1C00');
    await client.write(0, Buffer.alloc(16 * TRACK, 0x5a));
    client.close();
    expect(await ok('verify 1C00')).toBe(
      '1C00: 0 verified, 0 got a checksum, 16 only read, 0 do not match, 0 unreadable\n',
    );
    await ok('flashcopy establish 1C00:1C01 --nocopy');
    expect(await ok('verify 1C00:1C01')).toBe(
      '1C00: 0 verified, 16 got a checksum, 0 only read, 0 do not match, 0 unreadable\n' +
        '1C01: 16 verified, 0 got a checksum, 0 only read, 0 do not match, 0 unreadable\n' +
        '1C00:1C01: 16 tracks of the target are still T0 data shared with the source.\n',
    );
    await first.stop();

    // A new pool's tracks are handed out in order.
    const rotten = (1 << 20) + 5 * TRACK;
    await flipByte(join(first.data, 'pool/tracks'), rotten + 777);
    const second = await startServer(scope, { data: first.data });
    const { code, stdout, stderr } = await second.flashlun('verify', '1C01');
    expect(code).toBe(4);
    expect(stdout).toBe(
      `1C01: track 5 (from byte ${5 * TRACK} on) does not match its checksum; ` +
        `byte ${rotten} of pool/tracks, shared with 1C00\n` +
        '1C01: 15 verified, 0 got a checksum, 0 only read, 1 do not match, 0 unreadable\n',
    );
    expect(stderr).toMatch(/^flashlun: 1 track damaged\. The data is served as it is/);
    const json = await second.flashlun('verify', '1C01', '--json');
    expect(json.code).toBe(4);
    expect(JSON.parse(json.stdout)).toMatchObject({
      volumes: [
        { volume: '1C01', state: 'done', mismatches: [{ track: 5, sharedWith: ['1C00'] }] },
      ],
    });
    expect(second.log).toContain('track does not match its checksum');
    await second.stop();
  }));
