/** A guest that writes, syncs and reads all the time does not notice an upgrade of its storage. */
import { expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { bootGuest, essDisk, makeInitramfs, requiresGuest } from '../helpers/guest.js';
import { requires } from '../helpers/requires.js';
import { startServer } from '../helpers/server.js';

const SERIAL = '20313698';
/** Hundredths of a second. Far above what it takes (it is printed): the machine is shared. */
const MOST_STALL = 500;

/**
 * One loop writes a file durably, reads it back from the disk and compares; it notes how long the
 * slowest round took, in hundredths of a second, which is what /proc/uptime has.
 */
const SCRIPT = `
now() { read up rest < /proc/uptime; echo \${up%.*}\${up#*.}; }
/host/mke2fs -q -t ext4 -F /dev/sda && mount -t ext4 /dev/sda /mnt || echo "MOUNTED=no"
load() {
  worst=0 rounds=0 bad=0
  while [ ! -e /stop ]; do
    dd if=/dev/urandom of=/data bs=64k count=4 2>/dev/null
    begin=$(now)
    dd if=/data of=/mnt/file bs=64k conv=fsync 2>/dev/null || bad=$((bad + 1))
    echo 1 > /proc/sys/vm/drop_caches
    cmp -s /data /mnt/file || bad=$((bad + 1))
    took=$(($(now) - begin))
    [ $took -gt $worst ] && worst=$took
    rounds=$((rounds + 1))
    [ $rounds -eq 20 ] && echo "READY=yes"
  done
  echo "WORST=$worst"
  echo "ROUNDS=$rounds"
  echo "BAD=$bad"
}
load &
read answer
touch /stop
wait
echo "KERNEL=$(dmesg | grep -ci 'i/o error')"
umount /mnt && echo "DONE=yes"
`;

test('a guest under load sees three takeovers in a row as nothing', async (context) => {
  requiresGuest(context);
  requires(context, 'mke2fs');
  await scoped(async (scope) => {
    let server = await startServer(scope);
    const initramfs = await makeInitramfs(await scope.tempDir(), SCRIPT, ['mke2fs']);
    const guest = bootGuest(scope, initramfs, essDisk(server.unixPath, SERIAL));
    await guest.value('READY');
    for (let round = 0; round < 3; round += 1) {
      const old = server;
      server = await startServer(scope, { data: old.data, args: ['--takeover'] });
      expect(await old.endedByItself()).toBe(0);
    }
    guest.type('enough');
    const worst = Number(await guest.value('WORST'));
    const rounds = await guest.value('ROUNDS');
    console.log(`guest: slowest of ${rounds} durable writes and reads ${worst * 10} ms`);
    expect(worst).toBeLessThan(MOST_STALL);
    expect(await guest.value('BAD')).toBe('0');
    expect(await guest.value('KERNEL')).toBe('0');
    await guest.value('DONE');
    await guest.poweredOff();
  });
});
