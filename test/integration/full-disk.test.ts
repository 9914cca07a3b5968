/**
 * The file system below a running server is full: the client is told ENOSPC, what is acknowledged
 * stays, the server lives, and goes on when there is space again.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { ok } from '../helpers/exec.js';
import { NbdClient, NbdError } from '../helpers/nbd-client.js';
import { Random } from '../helpers/random.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const ENOSPC = 28;
const MIB = 1024 * 1024;
const DISK_BYTES = 96 * MIB;
const BALLAST_BYTES = 24 * MIB;
const LUN_BYTES = 256 * MIB;
const TRACK_BYTES = 65_536;
const TRACKS = LUN_BYTES / TRACK_BYTES;
/** A small journal leaves the disk to the data. */
const ENV = { FLASHLUN_TEST_JOURNAL_BLOCKS: '256' };

/** A file system of its own, that ends at DISK_BYTES. */
async function smallDisk(scope: Scope): Promise<string> {
  const point = join(await scope.tempDir(), 'disk');
  await mkdir(point);
  await ok('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES}`, 'flashlun-test', point]);
  scope.defer(`unmount ${point}`, () => ok('umount', [point]));
  return point;
}

/** What the tracks should hold; written one after the other. */
class Tracks {
  readonly #client: NbdClient;
  readonly #written = new Map<number, number>();

  constructor(client: NbdClient) {
    this.#client = client;
  }

  static content(track: number, version: number): Buffer {
    return new Random(track * 1000 + version + 1).bytes(TRACK_BYTES);
  }

  async write(track: number, version: number): Promise<void> {
    await this.#client.write(track * TRACK_BYTES, Tracks.content(track, version));
    this.#written.set(track, version);
  }

  /** Writes from `track` on until the server refuses; the first refused track. */
  async writeUntilRefused(track: number): Promise<number> {
    for (; track < TRACKS; track++) {
      const error = await this.write(track, 1).catch((caught: unknown) => caught);
      if (error === undefined) continue;
      expect(error).toBeInstanceOf(NbdError);
      expect((error as NbdError).errno).toBe(ENOSPC);
      return track;
    }
    throw new Error('the disk was never full');
  }

  async verify(client: NbdClient): Promise<void> {
    for (const [track, version] of this.#written) {
      const found = await client.read(track * TRACK_BYTES, TRACK_BYTES);
      if (!found.equals(Tracks.content(track, version))) {
        throw new Error(`track ${track} does not hold version ${version}`);
      }
    }
  }
}

async function connect(server: Server, name: string): Promise<NbdClient> {
  return NbdClient.open({ path: server.unixPath }, name);
}

async function fillAndRecover(scope: Scope): Promise<void> {
  const disk = await smallDisk(scope);
  const ballast = join(disk, 'ballast');
  await writeFile(ballast, Buffer.alloc(BALLAST_BYTES, 1));
  const data = join(disk, 'data');
  let server = await startServer(scope, { data, args: ['--no-demo'], env: ENV });
  const { id } = await server.api.createVolume('12', LUN_BYTES);
  const client = await connect(server, id);
  const tracks = new Tracks(client);
  const refused = await tracks.writeUntilRefused(0);
  expect(refused).toBeGreaterThan(100);

  // A refused write changed nothing, and what needs no space goes on.
  expect(await client.read(refused * TRACK_BYTES, TRACK_BYTES)).toEqual(Buffer.alloc(TRACK_BYTES));
  await tracks.write(0, 2);
  await client.flush();
  await tracks.verify(client);
  expect((await server.api.volume(id)).attached).toBe(1);

  await rm(ballast);
  // The server looks again a second after it found the disk full.
  const accepted = () =>
    tracks.write(refused, 1).then(
      () => true,
      () => false,
    );
  await until('the server notices the space', accepted, { deadlineMs: 20_000 });
  const second = await tracks.writeUntilRefused(refused + 1);
  expect(second).toBeGreaterThan(refused + 1);
  await tracks.verify(client);

  // Full again, killed, and opened on the full disk.
  await server.kill9();
  server = await startServer(scope, { data, args: ['--no-demo'], env: ENV });
  const again = await connect(server, id);
  await tracks.verify(again);
  again.close();
  await server.stop();
}

test('a full disk refuses with ENOSPC, loses nothing, and goes on with space', async (context) => {
  requires(context, 'root', 'mount', 'umount');
  await scoped(fillAndRecover);
});
