/**
 * A real Linux guest in QEMU, without hardware virtualisation: Debian's cloud kernel (unpacked by
 * scripts/test-tools) and an initramfs made here of busybox, modules for a virtio SCSI disk or for
 * a network and nbd, and a script. Boots in about 2 seconds.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, isAbsolute, join } from 'node:path';
import type { TestContext } from 'vitest';
import type { Scope } from './cleanup.js';
import { exec, killGroup, ok } from './exec.js';
import { findTool, requires } from './requires.js';
import { ROOT } from './server.js';
import { until } from './wait.js';

const KERNEL_DIR = join(ROOT, 'build/lab/kernel');
const GUEST_DEADLINE_MS = 90_000;

/** What a guest drives. */
interface Hardware {
  /** Of the kernel, in the order in which they must be loaded. */
  readonly modules: readonly string[];
  /** The kernel looks for devices in the background: what is there when it has found them. */
  readonly appears: string;
}

const VIRTIO_MODULES = [
  'drivers/virtio/virtio_ring.ko',
  'drivers/virtio/virtio.ko',
  'drivers/virtio/virtio_pci_modern_dev.ko',
  'drivers/virtio/virtio_pci_legacy_dev.ko',
  'drivers/virtio/virtio_pci.ko',
];

const NETWORK_MODULES = [
  'net/core/failover.ko',
  'drivers/net/net_failover.ko',
  'drivers/net/virtio_net.ko',
];

/** A LUN that QEMU attached. */
const SCSI_DISK: Hardware = {
  modules: [
    ...VIRTIO_MODULES,
    'drivers/scsi/scsi_common.ko',
    'drivers/scsi/scsi_mod.ko',
    'drivers/scsi/virtio_scsi.ko',
    'drivers/scsi/sd_mod.ko',
  ],
  appears: '/dev/sda',
};

/** A network card, and /dev/nbd0 to attach LUNs over it. */
export const NETWORK: Hardware = {
  modules: [...VIRTIO_MODULES, ...NETWORK_MODULES, 'drivers/block/nbd.ko'],
  appears: '/sys/class/net/eth0',
};

/** LUNs that QEMU attached, and a network card. */
export const DISKS_AND_NETWORK: Hardware = {
  modules: [...SCSI_DISK.modules, ...NETWORK_MODULES],
  appears: '/dev/sda',
};

/** Skips the test when no guest can be started here, with the reason. */
export function requiresGuest(context: TestContext): void {
  requires(context, 'qemu-system-x86_64', 'busybox', 'cpio', 'gzip', 'ldd');
  if (!existsSync(join(KERNEL_DIR, 'complete'))) {
    context.skip(
      'needs the kernel that scripts/test-tools unpacks (apt-get, package linux-image-cloud-amd64)',
    );
  }
}

/**
 * Makes an initramfs that loads the modules, runs `script` with /bin/sh, and powers the machine
 * off. Programs are names or absolute paths. `files` are further ones: their paths here, which are
 * also their names below /host there.
 */
export async function makeInitramfs(
  dir: string,
  script: string,
  programs: readonly string[],
  { hardware = SCSI_DISK, files = [] as readonly string[] } = {},
): Promise<string> {
  const tree = join(dir, 'initramfs');
  for (const name of ['bin', 'dev', 'proc', 'sys', 'mnt', 'modules', 'host']) {
    mkdirSync(join(tree, name), { recursive: true });
  }
  await copyBusybox(tree);
  for (const program of programs) await copyProgram(tree, program);
  for (const file of files) copyFileSync(file, join(tree, 'host', basename(file)));
  const begin = [...copyModules(tree, hardware.modules), ...waitFor(hardware.appears)];
  writeFileSync(join(tree, 'init'), initScript(begin, script), { mode: 0o755 });
  const image = join(dir, 'initramfs.gz');
  const pack = 'find . | cpio --quiet -o -H newc | gzip -1 > "$0"';
  await ok('sh', ['-c', pack, image], { cwd: tree });
  return image;
}

function waitFor(path: string): string[] {
  return [
    'tries=0',
    `until [ -e ${path} ] || [ $tries -ge 200 ]; do usleep 50000; tries=$((tries + 1)); done`,
  ];
}

function initScript(begin: readonly string[], script: string): string {
  return [
    '#!/bin/sh',
    'export PATH=/bin',
    '/bin/busybox --install -s /bin',
    'mount -t devtmpfs dev /dev',
    'mount -t proc proc /proc',
    'mount -t sysfs sys /sys',
    ...begin,
    script,
    'sync',
    'poweroff -f',
    '',
  ].join('\n');
}

async function copyBusybox(tree: string): Promise<void> {
  const busybox = findTool('busybox')!;
  const { code } = await exec('ldd', [busybox]);
  if (code === 0) throw new Error(`${busybox} is not static: install busybox-static`);
  copyFileSync(busybox, join(tree, 'bin/busybox'));
  copyFileSync(busybox, join(tree, 'bin/sh'));
}

/**
 * A program of this machine as /host/NAME (busybox would take its own for a bare name), with its
 * libraries.
 */
async function copyProgram(tree: string, name: string): Promise<void> {
  const path = isAbsolute(name) ? name : findTool(name);
  if (path === undefined) throw new Error(`${name} is not installed`);
  copyFileSync(path, join(tree, 'host', basename(name)));
  const libraries = (await ok('ldd', [path])).matchAll(/(\/\S+) \(0x/g);
  for (const [, library] of libraries) {
    mkdirSync(join(tree, dirname(library!)), { recursive: true });
    copyFileSync(library!, join(tree, library!));
  }
}

/** Copies the modules and returns the commands that load them. */
function copyModules(tree: string, modules: readonly string[]): string[] {
  const versions = join(KERNEL_DIR, 'lib/modules');
  const kernel = join(versions, readdirSync(versions)[0]!, 'kernel');
  return modules.map((module) => {
    copyFileSync(join(kernel, module), join(tree, 'modules', basename(module)));
    return `insmod /modules/${basename(module)}`;
  });
}

export class Guest {
  readonly #child: ChildProcess;
  #console = '';

  constructor(child: ChildProcess) {
    this.#child = child;
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        this.#console += chunk;
      });
    }
  }

  /** Waits for a line `KEY=value` on the guest's console. */
  async value(key: string): Promise<string> {
    const line = new RegExp(`^${key}=(.*?)\\s*$`, 'm');
    return until(
      `"${key}=" on the guest's console`,
      () => {
        const match = line.exec(this.#console.slice(0, this.#console.lastIndexOf('\n') + 1));
        if (match === null && this.#ended) throw new Error(`the guest ended\n${this.#tail()}`);
        return match?.[1];
      },
      { deadlineMs: GUEST_DEADLINE_MS, diagnosis: () => this.#tail() },
    );
  }

  /** Types a line on the guest's console. */
  type(line: string): void {
    this.#child.stdin!.write(`${line}\n`);
  }

  /** Waits until the guest has powered itself off. */
  async poweredOff(): Promise<void> {
    await until("the guest's power off", () => this.#ended, {
      deadlineMs: GUEST_DEADLINE_MS,
      diagnosis: () => this.#tail(),
    });
    if (this.#child.exitCode !== 0) throw new Error(`QEMU failed\n${this.#tail()}`);
  }

  get #ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  #tail(): string {
    return this.#console.slice(-4000);
  }
}

/** Boots a guest with the given devices; killed at the end of the scope. */
export function bootGuest(scope: Scope, initramfs: string, devices: readonly string[]): Guest {
  const boot = join(KERNEL_DIR, 'boot');
  const kernel = readdirSync(boot).find((name) => name.startsWith('vmlinuz'))!;
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-machine', 'q35,accel=tcg', '-cpu', 'max', '-m', '1024', '-no-reboot', '-nodefaults'],
      ...['-display', 'none', '-serial', 'stdio', '-monitor', 'none'],
      ...['-kernel', join(boot, kernel), '-initrd', initramfs],
      ...['-append', 'console=ttyS0 quiet panic=-1'],
      ...devices,
    ],
    { stdio: ['pipe', 'pipe', 'pipe'], detached: true },
  );
  scope.defer('stop the guest', () => {
    if (child.pid !== undefined) killGroup(child.pid);
  });
  return new Guest(child);
}

/** A LUN as the guest's raw SCSI disk with the identity of an ESS volume. */
export function essDisk(socket: string, serial: string): string[] {
  const drive = `driver=nbd,server.type=unix,server.path=${socket},export=${serial}`;
  return [
    '-device',
    'virtio-scsi-pci',
    '-drive',
    `${drive},if=none,id=d0,cache.direct=on,discard=unmap`,
    '-device',
    `scsi-hd,drive=d0,serial=${serial},vendor=IBM,product=2105800`,
  ];
}

/** A network card behind which this machine's 127.0.0.1 is 10.0.2.2. */
export const USER_NETWORK: readonly string[] = [
  ...['-netdev', 'user,id=n0'],
  ...['-device', 'virtio-net-pci,netdev=n0'],
];

/** The shell commands that bring up a guest's USER_NETWORK. */
export const NETWORK_UP = `
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
`;
