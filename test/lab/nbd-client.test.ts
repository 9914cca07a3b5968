/**
 * The Linux kernel as the client: a guest attaches a LUN with nbd-client, makes a file system on
 * /dev/nbd0, and runs a load like fsx's on it.
 */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { ok } from '../helpers/exec.js';
import {
  bootGuest,
  makeInitramfs,
  NETWORK,
  NETWORK_UP,
  requiresGuest,
  USER_NETWORK,
} from '../helpers/guest.js';
import { requires } from '../helpers/requires.js';
import { ROOT, type Server, startServer } from '../helpers/server.js';
import { Pki } from '../helpers/tls.js';
import { until } from '../helpers/wait.js';

const MIB = 2 ** 20;
const SIZE = 192 * MIB;
const BIG_FILE = 48 * MIB;

/** A way of attaching, and of making the file system. */
interface Way {
  readonly way: string;
  /** Options of nbd-client. */
  readonly client: string;
  /** Of mke2fs: whether it discards the whole disk first. */
  readonly mkfs: 'discard' | 'nodiscard';
  readonly connections: number;
  readonly tls?: true;
  /** The server is replaced while the load runs. */
  readonly takeover?: true;
}

const TLS_FILES = ['ca-cert.pem', 'client-cert.pem', 'client-key.pem'];
const TLS_FLAGS = [
  '-enable-tls -tlshostname localhost -cacertfile /host/ca-cert.pem',
  '-certfile /host/client-cert.pem -keyfile /host/client-key.pem',
].join(' ');

const WAYS: readonly Way[] = [
  { way: 'netlink', client: '', mkfs: 'nodiscard', connections: 1, takeover: true },
  { way: 'ioctl, two connections', client: '-L -C 2', mkfs: 'discard', connections: 2 },
  { way: 'netlink, two connections', client: '-C 2', mkfs: 'discard', connections: 2 },
  { way: 'X.509', client: TLS_FLAGS, mkfs: 'discard', connections: 1, tls: true },
];

function script(way: Way, port: number, serial: string): string {
  return `
${NETWORK_UP}
/host/nbd-client 10.0.2.2 ${port} -N ${serial} ${way.client} /dev/nbd0 > /log 2>&1 || cat /log
# With ioctls it goes to the background before the kernel has the size.
tries=0
until [ "$(cat /sys/block/nbd0/size)" != 0 ] || [ $tries -ge 200 ]; do
  usleep 50000
  tries=$((tries + 1))
done
echo "BLOCKS=$(cat /sys/block/nbd0/size)"
echo "DISCARDS=$(cat /sys/block/nbd0/queue/discard_max_bytes)"
echo "FUA=$(cat /sys/block/nbd0/queue/fua)"
/host/mke2fs -q -t ext4 -F -E ${way.mkfs} /dev/nbd0
mount -t ext4 -o discard /dev/nbd0 /mnt && echo "MOUNTED=yes"
/host/file_exerciser /mnt/one 11 1500 3000000 > /one &
/host/file_exerciser /mnt/two 12 1500 9000000 > /two &
echo "LOAD=yes"
wait
echo "ONE=$(cat /one)"
echo "TWO=$(cat /two)"
dd if=/dev/urandom of=/mnt/big bs=1M count=${BIG_FILE / MIB} 2>/dev/null
sync
echo "FULL=yes"
read answer
rm /mnt/big
sync
fstrim /mnt && echo "TRIMMED=yes"
read answer
echo 3 > /proc/sys/vm/drop_caches
echo "SUM=$(sha256sum < /mnt/one | cut -c1-64)"
umount /mnt && /host/nbd-client -d /dev/nbd0 > /log 2>&1 && echo "DETACHED=yes" || cat /log
echo "KERNEL=$(dmesg | grep -ciE 'i/o error|ext4-fs error|timed out')"
`;
}

async function boot(scope: Scope, server: Server, way: Way, serial: string, tlsFolder?: string) {
  const dir = await scope.tempDir();
  const exerciser = join(dir, 'file_exerciser');
  const source = join(ROOT, 'test/lab/file_exerciser.cc');
  await ok('c++', ['-std=c++20', '-O2', '-static', source, '-o', exerciser]);
  const files = tlsFolder === undefined ? [] : TLS_FILES.map((name) => join(tlsFolder, name));
  const initramfs = await makeInitramfs(
    dir,
    script(way, server.tcp.port, serial),
    ['nbd-client', 'mke2fs'],
    { hardware: NETWORK, files: [exerciser, ...files] },
  );
  return bootGuest(scope, initramfs, USER_NETWORK);
}

/** The file system and a file of it as the LUN has them now, without any client's cache. */
async function sumOnServer(scope: Scope, uri: string, path: string): Promise<string> {
  const image = join(await scope.tempDir(), 'image');
  await ok('nbdcopy', [uri, image]);
  await ok('e2fsck', ['-fn', image]);
  const file = join(await scope.tempDir(), 'file');
  await ok('debugfs', ['-R', `dump ${path} ${file}`, image]);
  return (await ok('sha256sum', [file])).slice(0, 64);
}

async function connected(server: Server): Promise<number> {
  const body = await server.api.call<{ connections: unknown[] }>('GET', '/v1/connections');
  return body.connections.length;
}

async function start(scope: Scope, way: Way): Promise<{ server: Server; tlsFolder?: string }> {
  if (way.tls !== true) return { server: await startServer(scope, { args: ['--no-demo'] }) };
  const pki = await Pki.make(scope);
  const tlsFolder = await pki.client('guest');
  const tls = ['--nbd-tls', 'require', '--nbd-tls-certificates', pki.server];
  const args = ['--no-demo', ...tls, '--nbd-tls-verify-peer'];
  return { server: await startServer(scope, { args }), tlsFolder };
}

test.for(WAYS)('$way: mkfs, a verified load, TRIM', async (way, context) => {
  requiresGuest(context);
  const checks = ['nbdcopy', 'e2fsck', 'debugfs', 'sha256sum'];
  requires(context, 'nbd-client', 'mke2fs', 'c++', ...checks, ...(way.tls ? ['openssl'] : []));
  await scoped(async (scope) => {
    const begun = await start(scope, way);
    let { server } = begun;
    const { id, serial } = await server.api.createVolume('12', SIZE);
    const guest = await boot(scope, server, way, serial, begun.tlsFolder);

    expect(await guest.value('BLOCKS')).toBe(String(SIZE / 512));
    expect(Number(await guest.value('DISCARDS'))).toBeGreaterThan(0);
    expect(await guest.value('FUA')).toBe('1');
    expect(await guest.value('MOUNTED')).toBe('yes');
    expect(await connected(server)).toBe(way.connections);
    await guest.value('LOAD');
    if (way.takeover === true) {
      const old = server;
      server = await startServer(scope, { data: old.data, args: ['--takeover'] });
      expect(await old.endedByItself()).toBe(0);
    }
    expect(await guest.value('ONE')).toBe('exercised 1500 operations');
    expect(await guest.value('TWO')).toBe('exercised 1500 operations');

    await guest.value('FULL');
    const full = (await server.api.volume(id)).usedBytes;
    expect(full).toBeGreaterThan(BIG_FILE);
    guest.type('delete it');
    expect(await guest.value('TRIMMED')).toBe('yes');
    expect((await server.api.volume(id)).usedBytes).toBeLessThan(full - BIG_FILE + MIB);
    guest.type('leave');
    const sum = await guest.value('SUM');
    expect(await guest.value('DETACHED')).toBe('yes');
    expect(await guest.value('KERNEL')).toBe('0');
    await guest.poweredOff();

    await until('the end of the connections', async () => (await connected(server)) === 0, {
      deadlineMs: 10_000,
    });
    if (way.tls !== true) {
      expect(await sumOnServer(scope, server.unixUri(serial), '/one')).toBe(sum);
    }
  });
});
