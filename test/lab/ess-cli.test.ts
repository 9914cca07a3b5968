/**
 * The ESS command lines as one executable in a guest without Node.js: it lists the guest's disk,
 * primes the server over the guest's network, and runs the saved task that copies the disk.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { exec } from '../helpers/exec.js';
import {
  bootGuest,
  DISKS_AND_NETWORK,
  essDisk,
  makeInitramfs,
  requiresGuest,
  USER_NETWORK,
} from '../helpers/guest.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { ROOT, startServer } from '../helpers/server.js';

const SERIAL = '20313698';
const TASK = 'VMWare_W2K_FC';
const BYTES = 4 * 65_536;
/** The executable is Node.js, which QEMU has to translate: seconds for each start. */
const BUILD_DEADLINE_MS = 120_000;

function script(server: string, password: string): string {
  return `
hostname rich-w2k-os-1
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
for name in rsList2105s rsPrimeServer rsExecuteTask rsQueryComplete; do
  ln -s flashlun-ess-cli /host/$name
done
export FLASHLUN_SERVER=${server} FLASHLUN_PASSWORD=${password}
echo "NODE=$(command -v node)."
echo "DISK=$(/host/rsList2105s | tail -n 1)"
dd if=/dev/urandom of=/dev/sda bs=64k count=4 conv=fsync 2>/dev/null
echo "WRITTEN=$(dd if=/dev/sda bs=64k count=4 2>/dev/null | sha256sum | cut -c1-64)"
echo "PRIMED=$(/host/rsPrimeServer /v | tail -n 1)"
echo "RAN=$(/host/rsExecuteTask /v ${TASK} | tail -n 2 | tr '\\n' ' ')"
dd if=/dev/zero of=/dev/sda bs=64k count=4 conv=fsync 2>/dev/null
echo "COPIED=$(/host/rsQueryComplete /t 60 ${TASK} | tail -n 1)"
/host/rsExecuteTask Nothing >/dev/null 2>&1
echo "UNKNOWN=$?"
`;
}

test('a guest without Node.js lists, primes and runs a task', async (context) => {
  requiresGuest(context);
  const built = await exec('node', [join(ROOT, 'scripts/build-ess-cli.mjs')], {
    deadlineMs: BUILD_DEADLINE_MS,
  });
  if (built.code === 77) context.skip(built.stderr.trim());
  expect(built).toMatchObject({ code: 0 });

  await scoped(async (scope) => {
    const server = await startServer(scope);
    const made = await server.flashlun('task', 'create', TASK, 'establish', '1203:1303');
    expect(made.code).toBe(0);
    const password = (await readFile(join(server.data, 'admin-password'), 'utf8')).trim();
    const address = `10.0.2.2:${new URL(server.addresses.http).port}`;
    const initramfs = await makeInitramfs(
      await scope.tempDir(),
      script(address, password),
      [join(ROOT, 'dist/ess-cli/flashlun-ess-cli')],
      { hardware: DISKS_AND_NETWORK },
    );
    const disks = essDisk(server.unixPath, SERIAL);
    const guest = bootGuest(scope, initramfs, [...disks, ...USER_NETWORK]);

    expect(await guest.value('NODE')).toBe('.');
    expect(await guest.value('DISK')).toBe(`sda                ${SERIAL}`);
    const written = await guest.value('WRITTEN');
    expect(await guest.value('PRIMED')).toBe('rsPrimeServer: Command successful');
    expect(await guest.value('RAN')).toBe(
      `rsExecuteTask: Task ${TASK} completed successfully rsExecuteTask: Command successful`,
    );
    expect(await guest.value('COPIED')).toBe('rsQueryComplete: Command successful');
    expect(await guest.value('UNKNOWN')).toBe('4');
    await guest.poweredOff();

    const { disks: mapped, primedFrom } = await server.api.call<{
      disks: object[];
      primedFrom: string;
    }>('GET', '/v1/hosts/RICH-W2K-OS-1');
    expect(mapped).toEqual([{ name: 'sda', serial: SERIAL, volume: '1203' }]);
    expect(primedFrom).toBe('10.0.2.15');
    const client = await NbdClient.open({ path: server.unixPath }, '1303');
    const copy = await client.read(0, BYTES);
    client.close();
    expect(createHash('sha256').update(copy).digest('hex')).toBe(written);
  });
});
