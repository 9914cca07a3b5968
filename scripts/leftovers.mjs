// Finds and removes what tests left behind below their temporary folder: servers, mounts, loop
// devices, files.
//
// Tests clean up for themselves; what is found here is a fault of a test (or a test that was
// killed). Only things that name the folder are touched, so nothing of anyone else can be hit.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

function output(command, args) {
  return spawnSync(command, args, { encoding: 'utf8' }).stdout ?? '';
}

/** Mount points below the folder, innermost first. */
function mounts(folder) {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((point) => point.startsWith(folder))
    .reverse();
}

function loopDevices(folder) {
  return output('losetup', ['--list', '--noheadings', '--output', 'NAME,BACK-FILE'])
    .split('\n')
    .filter((line) => line.includes(folder))
    .map((line) => line.split(' ')[0]);
}

function processes(folder) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(folder);
      } catch {
        return false; // It ended meanwhile.
      }
    });
}

/** One line for each thing left behind. */
export function leftovers(folder) {
  return [
    ...mounts(folder).map((point) => `mount ${point}`),
    ...loopDevices(folder).map((device) => `loop device ${device}`),
    ...processes(folder).map((pid) => `process ${pid}`),
    ...readdirSync(folder)
      .filter((name) => name.startsWith('flashlun-'))
      .map((name) => `folder ${join(folder, name)}`),
  ];
}

/** Removes all of it, in the order in which one thing holds another. */
export function sweep(folder) {
  // Loop devices are mounted below the folder; their backing files are on FUSE mounts below it,
  // served by processes.
  for (let round = 0; round < 2; round++) {
    for (const point of mounts(folder)) spawnSync('umount', ['--lazy', point]);
    for (const device of loopDevices(folder)) spawnSync('losetup', ['--detach', device]);
  }
  for (const pid of processes(folder)) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It ended meanwhile.
    }
  }
  for (const name of readdirSync(folder)) {
    rmSync(join(folder, name), { recursive: true, force: true, maxRetries: 3 });
  }
}
