/** Starts the servers that are compared, each as a process of its own on a unix socket. */

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const ROOT = path.join(import.meta.dirname, '..');
const FLASHLUN = path.join(ROOT, 'bin', 'flashlun');
const START_DEADLINE_MS = 30_000;
const POLL_MS = 50;
const EXPORT_ID = '1200';
/** Linux reports process times in ticks of 1/100 s on every architecture we run on. */
const MICROSECONDS_PER_TICK = 10_000;

/** User and system time of a process so far. The last bracket ends its name, which may hold any. */
function cpuMicroseconds(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * MICROSECONDS_PER_TICK;
}

function answers(socketPath) {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('error', () => resolve(false));
    socket.once('data', () => {
      socket.destroy();
      resolve(true);
    });
  });
}

/** A server process, once it answers on `socketPath` and `readyFile` is there. */
async function start(name, command, args, { socketPath, readyFile = socketPath }) {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  let failure;
  child.once('error', (error) => {
    failure = error;
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  const deadline = Date.now() + START_DEADLINE_MS;
  while (!(existsSync(readyFile) && (await answers(socketPath)))) {
    if (failure) throw new Error(`cannot start ${name}: ${failure.message}`);
    if (child.exitCode !== null) throw new Error(`${name} ended with code ${child.exitCode}`);
    if (Date.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`${name} does not answer on ${socketPath}`);
    }
    await delay(POLL_MS);
  }
  return {
    name,
    address: `unix:${socketPath}`,
    cpuMicroseconds: () => cpuMicroseconds(child.pid),
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Our server as users start it, with one LUN of `bytes`; `more` are arguments of `serve`. */
export async function startFlashlun(dir, bytes, more = []) {
  const data = path.join(dir, 'data');
  const args = ['serve', '--data', data, '--nbd', 'none', '--http', '127.0.0.1:0', '--no-demo'];
  const server = await start('flashlun', FLASHLUN, [...args, ...more, '--log-level', 'error'], {
    socketPath: path.join(data, 'nbd.sock'),
    readyFile: path.join(data, 'flashlun.json'),
  });
  try {
    const create = ['--data', data, 'volume', 'create', '--lss', '12', '--id', EXPORT_ID];
    execFileSync(FLASHLUN, [...create, '--size', String(bytes)], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  } catch (error) {
    await server.stop();
    throw error;
  }
  return { ...server, exportName: EXPORT_ID };
}

/** nbdkit's file plugin, the peer to beat, on a file of the same size in the same file system. */
export async function startNbdkit(dir, bytes, more = []) {
  const file = path.join(dir, 'nbdkit.img');
  const socketPath = path.join(dir, 'nbdkit.sock');
  writeFileSync(file, '');
  truncateSync(file, bytes);
  const args = ['--foreground', ...more, '--unix', socketPath, 'file', file];
  return { ...(await start('nbdkit file', 'nbdkit', args, { socketPath })), exportName: '' };
}
