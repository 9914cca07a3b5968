/**
 * Every client over every transport, at a glance: CLIENTS are the rows, WAYS the columns. Each cell
 * writes with the client, reads back with it, and compares what the LUN then holds as a client of
 * our own reads it over a plain unix socket.
 *
 * What a client cannot do stands in its row with the reason. In detail, the clients are tested in
 * real-clients, nbd-clients and tls-clients. The row that is not here is nbd-client, which needs a
 * kernel of its own: test/lab/nbd-client.test.ts has it over TCP and X.509; it knows no PSK, and
 * from a guest no way leads to a unix socket of its host.
 */
import { spawn } from 'node:child_process';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { NetConnectOpts } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mountFile } from '../helpers/block.js';
import { Scope, scoped } from '../helpers/cleanup.js';
import { killGroup, ok } from '../helpers/exec.js';
import { NbdPeer } from '../helpers/nbd-peer.js';
import { CMD, CMD_FLAG, clientFlags } from '../helpers/nbd-wire.js';
import { Random } from '../helpers/random.js';
import type { RawSocket } from '../helpers/raw-socket.js';
import { findTool, requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { clientOptions, makePsk, Pki, pskOptions, secured } from '../helpers/tls.js';
import { until } from '../helpers/wait.js';
import { wnbdAttach, wnbdSession } from '../helpers/wnbd.js';

const MIB = 2 ** 20;
const SIZE = 32 * MIB;

const all = new Scope();
let x509: { server: Server; folder: string } | undefined;
let psk: { server: Server; file: string };

beforeAll(async () => {
  const start = (...args: string[]) => startServer(all, { args: ['--no-demo', ...args] });
  const file = await makePsk(all, 'alice');
  psk = { file, server: await start('--nbd-tls', 'on', '--nbd-tls-psk', file) };
  if (findTool('openssl') === undefined) return;
  const pki = await Pki.make(all);
  const folder = await pki.client('alice');
  const certificates = ['--nbd-tls-certificates', pki.server, '--nbd-tls-verify-peer'];
  x509 = { folder, server: await start('--nbd-tls', 'on', ...certificates) };
});
afterAll(() => all.close());

/** One way to the server, in the words of each kind of client. */
interface Way {
  readonly needs?: readonly string[];
  server(): Server;
  /** libnbd's URI. */
  uri(name: string): string;
  /** QEMU's `--object`, where it needs one, and image options. */
  qemu(name: string): { object: readonly string[]; image: string };
  /** A connection on which the next thing to send is an option. */
  open(): Promise<RawSocket>;
}

async function plain(address: NetConnectOpts): Promise<RawSocket> {
  const raw = await NbdPeer.greeted(address);
  raw.send(clientFlags());
  return raw;
}

async function inside(server: Server, options: ConnectionOptions): Promise<RawSocket> {
  return (await secured(server.tcp, options)).raw;
}

const inet = ({ tcp }: Server): string =>
  `server.type=inet,server.host=localhost,server.port=${tcp.port}`;
const certificates = () => x509 ?? { server: psk.server, folder: '' };

const WAYS = {
  TCP: {
    server: () => psk.server,
    uri: (name) => psk.server.tcpUri(name),
    qemu: (name) => ({ object: [], image: `driver=nbd,${inet(psk.server)},export=${name}` }),
    open: () => plain(psk.server.tcp),
  },
  unix: {
    server: () => psk.server,
    uri: (name) => psk.server.unixUri(name),
    qemu: (name) => {
      const where = `server.type=unix,server.path=${psk.server.unixPath}`;
      return { object: [], image: `driver=nbd,${where},export=${name}` };
    },
    open: () => plain({ path: psk.server.unixPath }),
  },
  'X.509': {
    needs: ['openssl'],
    server: () => certificates().server,
    uri: (name) => {
      const { folder, server } = certificates();
      return `nbds://localhost:${server.tcp.port}/${name}?tls-certificates=${folder}`;
    },
    qemu: (name) => ({
      object: ['--object', `tls-creds-x509,id=t,endpoint=client,dir=${certificates().folder}`],
      image: `driver=nbd,${inet(certificates().server)},export=${name},tls-creds=t`,
    }),
    open: async () => inside(certificates().server, await clientOptions(certificates().folder)),
  },
  PSK: {
    server: () => psk.server,
    uri: (name) => `nbds://alice@localhost:${psk.server.tcp.port}/${name}?tls-psk-file=${psk.file}`,
    qemu: (name) => {
      const folder = dirname(psk.file);
      return {
        object: ['--object', `tls-creds-psk,id=t,endpoint=client,dir=${folder},username=alice`],
        image: `driver=nbd,${inet(psk.server)},export=${name},tls-creds=t`,
      };
    },
    open: async () => inside(psk.server, await pskOptions(psk.file, 'alice')),
  },
} satisfies Record<string, Way>;

type WayName = keyof typeof WAYS;

/** What a client is to do: write the whole of a LUN, and read it back. */
interface Task {
  readonly scope: Scope;
  readonly way: Way;
  readonly lun: string;
  /** A folder for the client's files. */
  readonly dir: string;
  /** A file of the LUN's size with the bytes that it must hold in the end, but for `ownBytes`. */
  readonly image: string;
}

interface Client {
  readonly needs: readonly string[];
  run(task: Task): Promise<void>;
  /** Other bytes than the image's are in the LUN in the end. */
  readonly ownBytes?: true;
  /** Which transports it does not have, and why. */
  readonly without?: Partial<Record<WayName, string>>;
}

const NO_FILES = 'it lets libnbd read no key or certificate that a URI names';

const CLIENTS: Readonly<Record<string, Client>> = {
  'qemu-img': {
    needs: ['qemu-img'],
    run: async ({ way, lun, image, dir }) => {
      const { object, image: target } = way.qemu(lun);
      const back = join(dir, 'back');
      await ok('qemu-img', [
        'convert',
        ...object,
        '-n',
        '-f',
        'raw',
        '--target-image-opts',
        image,
        target,
      ]);
      await ok('qemu-img', [
        'compare',
        ...object,
        '--image-opts',
        `driver=file,filename=${image}`,
        target,
      ]);
      await ok('qemu-img', ['convert', ...object, '--image-opts', target, '-O', 'raw', back]);
      await expectSame(back, image);
    },
  },
  'qemu-io': {
    needs: ['qemu-io'],
    ownBytes: true,
    run: async ({ way, lun }) => {
      const { object, image } = way.qemu(lun);
      const commands = [
        ...['write -P 0xaa 0 1M', 'write -P 0xcc 1001 3', 'read -P 0xaa 0 1001'],
        ...['read -P 0xcc 1001 3', 'write -z 131072 70000', 'read -P 0 131072 70000'],
        ...['discard 393216 131072', 'write -f -P 0xdd 28M 4M', 'flush', 'read -P 0xdd 28M 4M'],
      ].flatMap((command) => ['-c', command]);
      const output = await ok('qemu-io', [...object, ...commands, '--image-opts', image]);
      expect(output).not.toMatch(/fail|mismatch/i);
    },
  },
  // It is the client, and serves what it reads on a socket of its own.
  'qemu-nbd': {
    needs: ['qemu-nbd', 'nbdcopy'],
    run: async ({ scope, way, lun, image, dir }) => {
      const { object, image: source } = way.qemu(lun);
      const socket = join(dir, 'proxy.sock');
      const child = spawn('qemu-nbd', ['-t', '-k', socket, ...object, '--image-opts', source], {
        stdio: 'ignore',
        detached: true,
      });
      scope.defer('end qemu-nbd', () => child.pid !== undefined && killGroup(child.pid));
      const back = join(dir, 'back');
      const uri = `nbd+unix:///?socket=${socket}`;
      const tool = ['--synchronous', '--flush'];
      await until('qemu-nbd', () => ok('nbdinfo', ['--size', uri]).catch(() => undefined), WAIT);
      await ok('nbdcopy', [...tool, image, uri]);
      await ok('nbdcopy', [uri, back]);
      await expectSame(back, image);
    },
  },
  nbdinfo: {
    needs: ['nbdinfo'],
    ownBytes: true,
    run: async ({ way, lun }) => {
      const uri = way.uri(lun);
      expect(await ok('nbdinfo', ['--size', uri])).toBe(`${SIZE}\n`);
      const { TLS, exports } = JSON.parse(await ok('nbdinfo', ['--json', uri])) as {
        TLS: boolean;
        exports: Record<string, unknown>[];
      };
      expect(TLS).toBe(uri.startsWith('nbds'));
      expect(exports[0]).toMatchObject({ 'export-size': SIZE, can_multi_conn: true, can_df: true });
      expect(await ok('nbdinfo', ['--map', uri])).toMatch(/hole,zero/);
      expect(await ok('nbdinfo', ['--list', '--json', way.uri('')])).toContain(lun);
    },
  },
  'nbdcopy, 4 connections': {
    needs: ['nbdcopy'],
    run: async ({ way, lun, image, dir }) => {
      const back = join(dir, 'back');
      const flags = ['--connections=4', '--requests=64'];
      await ok('nbdcopy', [...flags, '--flush', image, way.uri(lun)]);
      await ok('nbdcopy', [...flags, way.uri(lun), back]);
      await expectSame(back, image);
    },
  },
  nbdfuse: {
    needs: ['nbdfuse', 'fuse', 'fusermount3', 'dd'],
    run: async ({ scope, way, lun, image, dir }) => {
      const mounted = join(dir, 'mounted');
      await mountFile(scope, mounted, [way.uri(lun)]);
      const disk = join(mounted, 'nbd');
      await ok('dd', [`if=${image}`, `of=${disk}`, 'bs=256k', 'conv=notrunc,fsync', 'status=none']);
      await expectSame(disk, image);
    },
    without: { PSK: NO_FILES, 'X.509': `${NO_FILES}, and root's are in /etc only` },
  },
  libnbd: {
    needs: ['nbdsh'],
    run: async ({ way, lun, image }) => {
      // nbdsh takes the first python3, which may be one that has no libnbd.
      const env = { PATH: '/usr/bin:/bin' };
      const connect = `h.set_uri_allow_local_file(True); h.add_meta_context('base:allocation')
h.connect_uri('${way.uri(lun)}')`;
      const script = `PATH = '${image}'\n${connect}\n${LIBNBD}`;
      await ok('nbdsh', ['-c', script], { env });
    },
  },
  fio: {
    needs: ['fio', 'unshare'],
    ownBytes: true,
    run: async ({ way, lun, dir }) => {
      const uri = way.uri(lun).replace(/\?tls-certificates=.*/, '');
      const env = { HOME: await libnbdHome(dir) };
      await ok(NOT_AS_ROOT[0], [...NOT_AS_ROOT.slice(1), 'fio', ...FIO, `--uri=${uri}`], { env });
    },
    without: { PSK: NO_FILES },
  },
  // On Windows there is only TCP; what it sends is served over the others too.
  'like wnbd': {
    needs: [],
    ownBytes: true,
    run: async ({ way, lun }) => {
      const raw = await way.open();
      await wnbdAttach(raw, lun, SIZE);
      await wnbdSession(raw);
      raw.close();
    },
  },
  // Of Debian's clients none has them yet.
  'extended headers': {
    needs: [],
    run: async ({ way, lun, image }) => {
      const contexts = ['base:allocation'];
      const peer = await NbdPeer.choose(await way.open(), lun, { extended: true, contexts });
      const bytes = await readFile(image);
      for (let offset = 0; offset < SIZE; offset += MIB) {
        const data = bytes.subarray(offset, offset + MIB);
        const flags = CMD_FLAG.fua;
        expect((await peer.ask({ type: CMD.write, flags, offset, data })).errno).toBe(0);
        const read = await peer.ask({ type: CMD.read, offset, length: MIB });
        expect(read.data.equals(data)).toBe(true);
      }
      const status = await peer.ask({ type: CMD.blockStatus, length: 2 ** 25 });
      expect(status.extents.get(1)?.length).toBeGreaterThan(0);
      peer.close();
    },
  },
};

const WAIT = { deadlineMs: 20_000 };

/** Requests in flight together, zeroes, a trim, block status, and the image's bytes at the end. */
const LIBNBD = `
image = open(PATH, 'rb').read()
step = 256 * 1024
h.pwrite(b'\\x55' * 5000, 1001)
h.zero(4096, 0)
h.trim(65536, 65536)
def each(start):
  cookies = []
  for at in range(0, len(image), step):
    while h.aio_in_flight() >= 16: h.poll(-1)
    cookies.append(start(at))
  while h.aio_in_flight() > 0: h.poll(-1)
  assert all(h.aio_command_completed(cookie) for cookie in cookies)
each(lambda at: h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(image[at:at + step])), at))
h.flush()
parts = {}
def read(at):
  parts[at] = nbd.Buffer(step)
  return h.aio_pread(parts[at], at)
each(read)
assert all(parts[at].to_bytearray() == image[at:at + step] for at in parts)
extents = []
h.block_status(len(image), 0, lambda name, offset, entries, err: extents.extend(entries))
assert extents
h.cache(1024 * 1024, 0)
h.shutdown()
`;

const FIO = [
  ...['--name=verify', '--ioengine=nbd', '--rw=randrw', '--bsrange=512-64k', '--bs_unaligned=1'],
  ...['--iodepth=16', `--size=${SIZE}`, '--verify=crc32c', '--verify_fatal=1', '--do_verify=1'],
  ...['--verify_state_save=0', '--randrepeat=0'],
];

/** Certificates of root are looked for in /etc, which is not ours. */
const NOT_AS_ROOT: readonly [string, ...string[]] =
  process.getuid?.() === 0 ? ['unshare', '--user', '--map-user=1000'] : ['env'];

/** A home folder in which libnbd finds the certificates without being told. */
async function libnbdHome(dir: string): Promise<string> {
  const home = join(dir, 'home');
  await mkdir(join(home, '.pki'), { recursive: true });
  await symlink(certificates().folder, join(home, '.pki/libnbd'));
  return home;
}

async function expectSame(one: string, other: string): Promise<void> {
  const [a, b] = await Promise.all([readFile(one), readFile(other)]);
  expect(a.equals(b)).toBe(true);
}

/** What the LUN holds, by a client of our own. */
async function contentOf(server: Server, lun: string): Promise<Buffer> {
  const peer = await NbdPeer.attach({ path: server.unixPath }, lun);
  const parts: Buffer[] = [];
  for (let offset = 0; offset < SIZE; offset += MIB) {
    parts.push((await peer.ask({ type: CMD.read, offset, length: MIB })).data);
  }
  peer.close();
  return Buffer.concat(parts);
}

/** Data and, for a third of it, holes. */
function imageBytes(): Buffer {
  const random = new Random(11);
  const bytes = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at += MIB) {
    if (random.between(0, 3) > 0) random.bytes(random.between(1, MIB)).copy(bytes, at);
  }
  return bytes;
}

const IMAGE = imageBytes();

const cells = Object.entries(CLIENTS).map(([client, { without = {}, ...rest }]) => {
  const ways = Object.entries<Way>(WAYS).filter(([name]) => !(name in without));
  return { client, ...rest, ways };
});

describe.each(cells)('$client', ({ needs, ownBytes, run, ways }) => {
  test.for(ways)('%s', ([, way], context) =>
    scoped(async (scope) => {
      requires(context, ...needs, ...(way.needs ?? []));
      const server = way.server();
      const { serial: lun } = await server.api.createVolume('12', SIZE);
      const dir = await scope.tempDir();
      const image = join(dir, 'image');
      if (ownBytes !== true) await writeFile(image, IMAGE);
      await run({ scope, way, lun, dir, image });
      if (ownBytes !== true) {
        expect((await contentOf(server, lun)).equals(IMAGE)).toBe(true);
      }
    }),
  );
});
