/**
 * A Linux guest sees a LUN as the raw disk of an ESS, uses it, and is copied from outside while it
 * runs.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { attachDisk, mount } from '../helpers/block.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { ok } from '../helpers/exec.js';
import { bootGuest, essDisk, makeInitramfs, requiresGuest } from '../helpers/guest.js';
import { requires } from '../helpers/requires.js';
import { startServer } from '../helpers/server.js';

const SERIAL = '20313698';
const PAIR = '1203:1303';

/**
 * Reports what it sees, writes files, waits for the copy, writes others, and leaves the disk clean.
 */
const SCRIPT = `
disk=/sys/block/sda/device
echo "VENDOR=$(cat $disk/vendor)"
echo "MODEL=$(cat $disk/model)"
echo "SERIAL=$(tail -c +5 $disk/vpd_pg80)"
echo "BLOCKS=$(cat /sys/block/sda/size)"
/host/mke2fs -q -t ext4 -F /dev/sda && mount -t ext4 /dev/sda /mnt && echo "MOUNTED=yes"
dd if=/dev/urandom of=/mnt/t0 bs=64k count=256 2>/dev/null
dd if=/dev/urandom of=/mnt/changed bs=1000 count=777 2>/dev/null
sync
echo "T0=$(sha256sum < /mnt/t0 | cut -c1-64)"
echo "OLD=$(sha256sum < /mnt/changed | cut -c1-64)"
echo "READY=yes"
read answer
dd if=/dev/urandom of=/mnt/changed bs=1000 count=777 2>/dev/null
rm /mnt/t0
dd if=/dev/urandom of=/mnt/later bs=64k count=64 2>/dev/null
sync
echo "NEW=$(sha256sum < /mnt/changed | cut -c1-64)"
umount /mnt && echo "DONE=yes"
`;

async function sha256(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

/** Mounts an export on the host, runs `look` on it, and checks the file system afterwards. */
async function onHost(
  scope: Scope,
  uri: string,
  look: (path: string) => Promise<void>,
): Promise<void> {
  const dir = await scope.tempDir();
  const disk = await attachDisk(scope, join(dir, 'disk'), [uri]);
  const mounted = await mount(scope, disk.device, join(dir, 'files'), ['mount', '-t', 'ext4']);
  await look(mounted.path);
  await mounted.unmount();
  await ok('e2fsck', ['-fn', disk.device]);
  await disk.detach();
}

test('a guest uses an IBM 2105800 disk while FlashCopy copies it', async (context) => {
  requiresGuest(context);
  requires(context, 'mke2fs', 'e2fsck', 'nbdfuse', 'losetup', 'fuse', 'root');
  await scoped(async (scope) => {
    const server = await startServer(scope);
    const initramfs = await makeInitramfs(await scope.tempDir(), SCRIPT, ['mke2fs']);
    const guest = bootGuest(scope, initramfs, essDisk(server.unixPath, SERIAL));

    expect(await guest.value('VENDOR')).toBe('IBM');
    expect(await guest.value('MODEL')).toBe('2105800');
    expect(await guest.value('SERIAL')).toBe(SERIAL);
    expect(await guest.value('BLOCKS')).toBe(String(2 ** 30 / 512));
    expect(await guest.value('MOUNTED')).toBe('yes');
    const [t0, old] = [await guest.value('T0'), await guest.value('OLD')];
    await guest.value('READY');

    await server.api.establish([PAIR], false);
    guest.type('go on');
    const changed = await guest.value('NEW');
    await guest.value('DONE');
    await guest.poweredOff();
    await server.api.copied(PAIR);

    await onHost(scope, server.unixUri('30313698'), async (path) => {
      expect(await sha256(join(path, 't0'))).toBe(t0);
      expect(await sha256(join(path, 'changed'))).toBe(old);
      await expect(readFile(join(path, 'later'))).rejects.toThrow('ENOENT');
    });
    await onHost(scope, server.unixUri(SERIAL), async (path) => {
      expect(await sha256(join(path, 'changed'))).toBe(changed);
      await expect(readFile(join(path, 't0'))).rejects.toThrow('ENOENT');
    });
  });
});
