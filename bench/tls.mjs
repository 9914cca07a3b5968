/** The part `tls` of `npm run bench`: what encryption costs, as ratios within one run. */

import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { runLoad } from './loadgen.mjs';
import { startFlashlun, startNbdkit } from './servers.mjs';

const MEMORY_DIR = '/dev/shm';
const NAME_WIDTH = 28;
/** Encryption does not depend on the size of the LUN, and a fill takes time. */
const MOST_BYTES = 2 ** 28;

const SCENARIOS = [
  { name: '4k random read, QD1', load: { depth: 1 } },
  { name: '4k random read, QD32', load: { depth: 32 }, goal: 0.5 },
  { name: '4k random read, 2 x QD32', load: { depth: 32, connections: 2 } },
  { name: '4k random write, QD32', load: { depth: 32, write: true } },
  { name: '256k sequential read, QD8', load: { depth: 8, block: 262_144, sequential: true } },
];

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

async function startAll(dir, bytes, keyFile) {
  const tls = ['--nbd-tls', 'on', '--nbd-tls-psk', keyFile, '--nbd-tls-transport'];
  const servers = [];
  const add = async (name, start) => {
    const own = path.join(dir, name);
    mkdirSync(own);
    servers.push({ ...(await start(own)), name });
  };
  await add('native', (own) => startFlashlun(own, bytes, [...tls, 'native']));
  await add('bridge', (own) => startFlashlun(own, bytes, [...tls, 'bridge']));
  await add('nbdkit', (own) => startNbdkit(own, bytes, ['--tls', 'on', '--tls-psk', keyFile]));
  return servers;
}

/** One measurement, with the server's own microseconds of CPU for each request. */
async function measure(server, load) {
  const before = server.cpuMicroseconds();
  const result = await runLoad(server, load);
  return { iops: result.iops, cpu: (server.cpuMicroseconds() - before) / result.requests };
}

/** Plain and encrypted in turn, so that a slow minute of the machine hits both. */
async function compare(server, scenario, { rounds, seconds }, psk) {
  const runs = { plain: [], tls: [] };
  for (let round = 0; round < rounds; round++) {
    runs.plain.push(await measure(server, { ...scenario.load, seconds }));
    runs.tls.push(await measure(server, { ...scenario.load, seconds, psk }));
  }
  const of = (kind, what) => median(runs[kind].map((run) => run[what]));
  return {
    plain: of('plain', 'iops'),
    tls: of('tls', 'iops'),
    plainCpu: of('plain', 'cpu'),
    tlsCpu: of('tls', 'cpu'),
  };
}

function printRow(scenario, server, row) {
  const cells = [row.plain, row.tls].map((iops) => iops.toFixed(0).padStart(10)).join('');
  const cpu = [row.plainCpu, row.tlsCpu].map((us) => us.toFixed(2).padStart(9)).join('');
  const goal = scenario.goal && server.name === 'native' ? `   (goal >= ${scenario.goal})` : '';
  const ratio = (row.tls / row.plain).toFixed(2).padStart(8);
  console.log(
    `${scenario.name.padEnd(NAME_WIDTH)}${server.name.padEnd(8)}${cells}${ratio}${cpu}${goal}`,
  );
}

/** Prints; asserts nothing. @param {{rounds: number, seconds: number, size: number}} options */
export async function benchTls(options) {
  const dir = mkdtempSync(path.join(MEMORY_DIR, 'flashlun-bench-'));
  const psk = randomBytes(32).toString('hex');
  const keyFile = path.join(dir, 'keys.psk');
  writeFileSync(keyFile, `bench:${psk}\n`, { mode: 0o600 });
  const bytes = Math.min(options.size, MOST_BYTES);
  let servers = [];
  try {
    servers = await startAll(dir, bytes, keyFile);
    for (const server of servers) await runLoad(server, { fill: true, block: 1 << 20, depth: 4 });
    console.log(`TLS: unix socket, ${bytes >> 20} MiB in ${MEMORY_DIR}, medians of plain and TLS`);
    console.log(
      `${''.padEnd(NAME_WIDTH + 8)}     plain       TLS   ratio  us/req   TLS us/req (server CPU)`,
    );
    for (const scenario of SCENARIOS) {
      for (const server of servers) {
        printRow(scenario, server, await compare(server, scenario, options, psk));
      }
    }
    console.log('');
  } finally {
    for (const server of servers) await server.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
