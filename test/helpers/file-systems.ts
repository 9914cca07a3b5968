/**
 * The file system scenario: files on LUN A, FlashCopy to LUN B, both mounted and written, both
 * checked.
 *
 * What is asserted is what a user of a copy relies on: B holds every file as it was when the copy
 * was made, whatever happens to A afterwards and whatever B itself is used for; A holds what was
 * written last; both are clean.
 */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { attachDisk, type Mounted, mount } from './block.js';
import type { Scope } from './cleanup.js';
import { ok } from './exec.js';
import { Random } from './random.js';

export interface FileSystem {
  readonly name: string;
  readonly tools: readonly string[];
  readonly make: readonly string[];
  readonly mount: readonly string[];
  /** XFS refuses a second file system with the same UUID, which is what a copy is. */
  readonly mountCopy: readonly string[];
  /** Checks without repairing; exit code 0 means clean. */
  readonly check: readonly string[];
}

export const FILE_SYSTEMS: readonly FileSystem[] = [
  {
    name: 'ext4',
    tools: ['mkfs.ext4', 'e2fsck'],
    make: ['mkfs.ext4', '-q', '-F'],
    mount: ['mount', '-t', 'ext4'],
    mountCopy: ['mount', '-t', 'ext4'],
    check: ['e2fsck', '-fn'],
  },
  {
    name: 'XFS',
    tools: ['mkfs.xfs', 'xfs_repair'],
    make: ['mkfs.xfs', '-q', '-f'],
    mount: ['mount', '-t', 'xfs'],
    mountCopy: ['mount', '-t', 'xfs', '-o', 'nouuid'],
    check: ['xfs_repair', '-n'],
  },
  {
    name: 'NTFS',
    tools: ['mkntfs', 'ntfs-3g', 'ntfsfix'],
    make: ['mkntfs', '--quick', '--force', '--quiet'],
    mount: ['ntfs-3g'],
    mountCopy: ['ntfs-3g'],
    check: ['ntfsfix', '-n'],
  },
];

export const FILE_SYSTEM_TOOLS = ['root', 'fuse', 'nbdfuse', 'losetup', 'fusermount3'] as const;

/** Where LUN A and LUN B are (nbdfuse arguments), and how to copy A to B. */
export interface Luns {
  readonly a: readonly string[];
  readonly b: readonly string[];
  establish(): Promise<void>;
  /** Called when both have been written and are still mounted: for a background copy to end. */
  afterwards(): Promise<void>;
}

type Files = ReadonlyMap<string, Buffer>;

const SIZES = [0, 1, 511, 4096, 4097, 65_535, 65_536, 65_537, 300_001, 1_048_576];
const FILE_COUNT = 40;
const BIG_FILE_BYTES = 24 * 1024 * 1024;

/** Files of known content: small and odd sizes, sizes around a track, and one big one. */
function makeFiles(seed: number): Files {
  const random = new Random(seed);
  const files = new Map<string, Buffer>();
  for (let i = 0; i < FILE_COUNT; i++) {
    files.set(`file-${i}`, random.bytes(SIZES[i % SIZES.length]!));
  }
  return files.set('big', random.bytes(BIG_FILE_BYTES));
}

async function writeFiles(dir: string, files: Files): Promise<void> {
  for (const [name, content] of files) await writeFile(join(dir, name), content);
  await ok('sync', ['--file-system', dir]);
}

/** The folder holds exactly these files with this content. */
async function expectFiles(dir: string, files: Files): Promise<void> {
  const found = (await readdir(dir)).filter((name) => name !== 'lost+found').sort();
  expect(found).toEqual([...files.keys()].sort());
  for (const [name, content] of files) {
    const actual = await readFile(join(dir, name));
    // Not toEqual: a difference in a big buffer takes vitest minutes to print.
    if (!actual.equals(content)) throw new Error(`${dir}/${name} has other content than expected`);
  }
}

export async function fileSystemScenario(
  scope: Scope,
  system: FileSystem,
  luns: Luns,
): Promise<void> {
  const dir = await scope.tempDir();
  const before = makeFiles(1);
  const diskA = await attachDisk(scope, join(dir, 'disk-a'), luns.a);
  await ok(system.make[0]!, [...system.make.slice(1), diskA.device]);
  const a = await mount(scope, diskA.device, join(dir, 'a'), system.mount);
  await writeFiles(a.path, before);

  await luns.establish();
  const diskB = await attachDisk(scope, join(dir, 'disk-b'), luns.b);
  const b = await mount(scope, diskB.device, join(dir, 'b'), system.mountCopy);
  const { filesOfA, filesOfB } = await useBoth(a, b, before);
  await luns.afterwards();
  await expectFiles(b.path, filesOfB);

  await a.unmount();
  await b.unmount();
  await ok(system.check[0]!, [...system.check.slice(1), diskA.device]);
  await ok(system.check[0]!, [...system.check.slice(1), diskB.device]);
  await diskA.detach();
  await diskB.detach();
  await expectOnDisk(scope, join(dir, 'again-a'), { system, lun: luns.a, files: filesOfA });
  await expectOnDisk(scope, join(dir, 'again-b'), { system, lun: luns.b, files: filesOfB });
}

/**
 * Rewrites everything on A while B is mounted, then writes on B too. Returns what each must hold.
 */
async function useBoth(
  a: Mounted,
  b: Mounted,
  before: Files,
): Promise<{ filesOfA: Files; filesOfB: Files }> {
  const filesOfA = new Map(makeFiles(2));
  filesOfA.delete('file-3');
  filesOfA.set('only-on-a', new Random(3).bytes(100_000));
  await rm(join(a.path, 'file-3'));
  await writeFiles(a.path, filesOfA);
  await expectFiles(b.path, before);

  const own = new Map([['only-on-b', new Random(4).bytes(200_000)]]);
  await writeFiles(b.path, own);
  await expectFiles(a.path, filesOfA);
  return { filesOfA, filesOfB: new Map([...before, ...own]) };
}

/** Through a fresh connection and a fresh mount, so that no cache of this machine answers. */
async function expectOnDisk(
  scope: Scope,
  dir: string,
  what: { system: FileSystem; lun: readonly string[]; files: Files },
): Promise<void> {
  const disk = await attachDisk(scope, join(dir, 'disk'), what.lun);
  const mounted = await mount(scope, disk.device, join(dir, 'files'), what.system.mountCopy);
  await expectFiles(mounted.path, what.files);
  await mounted.unmount();
  await disk.detach();
}
