/**
 * `npm run bench`: this server beside a peer on the same machine in the same session, and what an
 * establish costs at different sizes. Prints; asserts nothing, because a ratio depends on the
 * machine and on what else it does.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, cpus, release, tmpdir, totalmem } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';

import { runLoad } from './loadgen.mjs';
import { startFlashlun, startNbdkit } from './servers.mjs';
import { benchStore } from './store.mjs';
import { benchTls } from './tls.mjs';

/** Memory-backed, so that the page cache and not a disk is measured. */
const MEMORY_DIR = '/dev/shm';
const READ_GOAL = 2;
const NAME_WIDTH = 28;

/** Each is one line of the table. The named one carries the goal. */
const SCENARIOS = [
  { name: '4k random read, QD1', load: { depth: 1 } },
  { name: '4k random read, QD16', load: { depth: 16 } },
  { name: '4k random read, QD32', load: { depth: 32 }, goal: READ_GOAL },
  { name: '4k random read, QD128', load: { depth: 128 } },
  { name: '4k random read, 2 x QD32', load: { depth: 32, connections: 2 } },
  { name: '4k random write, QD1', load: { depth: 1, write: true } },
  { name: '4k random write, QD32', load: { depth: 32, write: true } },
  { name: '256k sequential read, QD8', load: { depth: 8, block: 262_144, sequential: true } },
  {
    name: '256k sequential write, QD8',
    load: { depth: 8, block: 262_144, sequential: true, write: true },
  },
];

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function commit() {
  const git = spawnSync('git', ['describe', '--always', '--dirty', '--abbrev=12'], {
    encoding: 'utf8',
  });
  return git.status === 0 ? git.stdout.trim() : 'no commit';
}

function printMachine() {
  const model = cpus()[0]?.model.trim() ?? 'unknown';
  console.log(`CPU      ${model}, ${availableParallelism()} cores`);
  console.log(`memory   ${(totalmem() / 2 ** 30).toFixed(1)} GiB`);
  console.log(`kernel   ${release()}`);
  console.log(`node     ${process.version}`);
  console.log(`commit   ${commit()}`);
  console.log(`date     ${new Date().toISOString()}\n`);
}

/**
 * Rounds go around all servers and scenarios, so that a slow minute of the machine hits everyone.
 * Returns per scenario and server the list of measurements.
 */
async function measure(servers, options) {
  const results = SCENARIOS.map(() => servers.map(() => []));
  for (let round = 1; round <= options.rounds; round++) {
    for (const [s, scenario] of SCENARIOS.entries()) {
      for (const [p, server] of servers.entries()) {
        const cpuBefore = server.cpuMicroseconds();
        const result = await runLoad(server, { ...scenario.load, seconds: options.seconds });
        const cpu = (server.cpuMicroseconds() - cpuBefore) / result.requests;
        results[s][p].push({ ...result, cpu });
      }
    }
    process.stderr.write(`round ${round} of ${options.rounds}\n`);
  }
  return results;
}

/** Three numbers of one server in one scenario, as wide as the heading below the server's name. */
function cell(runs) {
  const iops = median(runs.map((run) => run.iops)).toFixed(0);
  const p99 = median(runs.map((run) => run.p99us)).toFixed(0);
  const cpu = median(runs.map((run) => run.cpu)).toFixed(2);
  return `${iops.padStart(10)}${p99.padStart(8)}${cpu.padStart(12)}`;
}

function printTable(servers, results) {
  const heading = `${'IOPS'.padStart(10)}${'p99 us'.padStart(8)}${'cpu us/req'.padStart(12)}`;
  const names = servers.map(({ name }) => name.padStart(heading.length)).join('');
  console.log(`${''.padEnd(NAME_WIDTH)}${names}     ratio`);
  console.log(`${''.padEnd(NAME_WIDTH)}${heading.repeat(servers.length)}`);
  for (const [s, scenario] of SCENARIOS.entries()) {
    const [ours, peer] = results[s].map((runs) => median(runs.map((run) => run.iops)));
    const ratio = `${(ours / peer).toFixed(2)}x`.padStart(10);
    const goal = scenario.goal ? `   (goal >= ${scenario.goal})` : '';
    console.log(
      `${scenario.name.padEnd(NAME_WIDTH)}${results[s].map(cell).join('')}${ratio}${goal}`,
    );
  }
  console.log('');
}

async function benchPeers(options) {
  const dir = mkdtempSync(path.join(MEMORY_DIR, 'flashlun-bench-'));
  const servers = [];
  try {
    servers.push(await startFlashlun(dir, options.size));
    servers.push(await startNbdkit(dir, options.size));
    for (const server of servers) await runLoad(server, { fill: true, block: 1 << 20, depth: 4 });
    console.log(
      `unix socket, ${options.size >> 20} MiB in ${MEMORY_DIR}, both filled; medians of ` +
        `${options.rounds} interleaved rounds of ${options.seconds} s`,
    );
    printTable(servers, await measure(servers, options));
  } finally {
    for (const server of servers) await server.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}

/** In a process of its own: its heap and its pool are then only what it measures. */
function benchAlone(name, options) {
  const dir = mkdtempSync(path.join(options.dir, 'flashlun-bench-'));
  try {
    const script = path.join(import.meta.dirname, `${name}.mjs`);
    execFileSync(process.execPath, [script, dir], { stdio: 'inherit' });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    size: { type: 'string', default: String(2 ** 30) },
    dir: { type: 'string', default: tmpdir() },
    only: { type: 'string' },
  },
});
const options = {
  rounds: Number(values.rounds),
  seconds: Number(values.seconds),
  size: Number(values.size),
  dir: values.dir,
};
printMachine();
const wanted = (part) => values.only === undefined || values.only === part;
if (wanted('peers')) await benchPeers(options);
if (wanted('tls')) await benchTls(options);
if (wanted('store')) await benchStore(options);
if (wanted('establish')) benchAlone('establish', options);
if (wanted('stall')) benchAlone('stall', options);
