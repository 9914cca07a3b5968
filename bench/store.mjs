/**
 * `npm run bench -- --only store`: what copy services and flushes cost, as ratios within one run.
 *
 * First writes and overwrites touch every track of the LUN once, in an order that jumps, one write
 * a track, at 4 and at 64 KiB; pools in memory, so that CPU and not a disk is measured. Flush-heavy
 * runs on the real disk, beside pwrite and fdatasync on the same one.
 */

import { execFileSync } from 'node:child_process';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';

import { runLoad } from './loadgen.mjs';
import { startFlashlun } from './servers.mjs';

const MEMORY_DIR = '/dev/shm';
const TRACK_BYTES = 65_536;
const LUN_BYTES = 256 * 2 ** 20;
const SOURCE = '1200';
const TARGET_COUNTS = [1, 12];
const SIZES = [4096, TRACK_BYTES];
const DEPTH = 16;
const NAME_WIDTH = 44;
const RATE_GOAL = 0.8;
const LATENCY_GOAL = 1.5;
const FLASHLUN = path.join(import.meta.dirname, '..', 'bin', 'flashlun');

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function row(name, figure, unit, ratio, goal) {
  const said = ratio === undefined ? '' : `${ratio.toFixed(2)}x`.padStart(9);
  console.log(
    `${name.padEnd(NAME_WIDTH)}${figure.toFixed(0).padStart(10)} ${unit.padEnd(5)}${said}` +
      (goal === undefined ? '' : `   (goal ${goal})`),
  );
}

function cli(dir, ...args) {
  const data = ['--data', path.join(dir, 'data')];
  execFileSync(FLASHLUN, [...data, ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
}

/** One write to each track; writes a second. */
async function writeOnce(server, block) {
  const load = { write: true, once: true, block, stride: TRACK_BYTES, depth: DEPTH };
  return (await runLoad(server, load)).iops;
}

function targets(count) {
  return Array.from({ length: count }, (_, i) => `13${i.toString(16).padStart(2, '0')}`);
}

/** Writes a second of each pattern, in rounds, so that a slow minute hits all of them. */
async function firstWrites(options) {
  const rates = new Map();
  const note = (name, rate) => rates.set(name, [...(rates.get(name) ?? []), rate]);
  for (let round = 0; round < options.rounds; round++) {
    for (const size of SIZES) {
      const dir = mkdtempSync(path.join(MEMORY_DIR, 'flashlun-bench-'));
      const server = await startFlashlun(dir, LUN_BYTES);
      try {
        note(`${size} first write ever`, await writeOnce(server, size));
        await runLoad(server, { fill: true, block: 2 ** 20, depth: 4 });
        note(`${size} plain overwrite`, await writeOnce(server, size));
        for (const id of targets(Math.max(...TARGET_COUNTS))) {
          cli(dir, 'volume', 'create', '--lss', '13', '--id', id, '--size', String(LUN_BYTES));
        }
        for (const count of TARGET_COUNTS) {
          const pairs = targets(count).map((id) => `${SOURCE}:${id}`);
          cli(dir, 'flashcopy', 'establish', ...pairs, '--nocopy');
          note(`${size} after establish, ${count}`, await writeOnce(server, size));
          cli(dir, 'flashcopy', 'withdraw', ...pairs);
        }
        note(`${size} overwrite again`, await writeOnce(server, size));
      } finally {
        await server.stop();
        rmSync(dir, { recursive: true, force: true });
      }
    }
    process.stderr.write(`round ${round + 1} of ${options.rounds}\n`);
  }
  for (const size of SIZES) {
    const plain = median(rates.get(`${size} plain overwrite`));
    for (const [name, values] of rates) {
      if (!name.startsWith(`${size} `)) continue;
      const goal = name.includes('establish') ? `>= ${RATE_GOAL}` : undefined;
      row(name, median(values), 'w/s', median(values) / plain, goal);
    }
  }
}

/** Microseconds of a 4 KiB pwrite and its fdatasync, on a file that is already there. */
function rawFlush(dir, seconds) {
  const file = openSync(path.join(dir, 'raw'), 'w+');
  const data = Buffer.alloc(4096, 7);
  const blocks = 4096;
  for (let i = 0; i < blocks; i++) writeSync(file, data, 0, data.length, i * data.length);
  fdatasyncSync(file);
  const times = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const startedAt = performance.now();
    writeSync(file, data, 0, data.length, ((times.length * 1031) % blocks) * data.length);
    fdatasyncSync(file);
    times.push((performance.now() - startedAt) * 1000);
  }
  closeSync(file);
  return median(times);
}

/** Microseconds of a write and of the flush behind it. */
async function servedFlush(server, seconds) {
  const load = { write: true, flush: true, depth: 1, range: 2 ** 24, seconds };
  const { requests, seconds: took } = await runLoad(server, load);
  return (took * 1e6) / (requests / 2);
}

async function flushHeavy(options) {
  const dir = mkdtempSync(path.join(options.dir, 'flashlun-bench-'));
  const server = await startFlashlun(dir, LUN_BYTES);
  try {
    await runLoad(server, { fill: true, block: 2 ** 20, depth: 4 });
    const raw = [];
    const ours = [];
    for (let round = 0; round < options.rounds; round++) {
      raw.push(rawFlush(dir, options.seconds));
      ours.push(await servedFlush(server, options.seconds));
    }
    row('pwrite + fdatasync, 4 KiB', median(raw), 'us');
    row('write + flush', median(ours), 'us', median(ours) / median(raw), `<= ${LATENCY_GOAL}`);
  } finally {
    await server.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}

/** All of the store's table. `options`: rounds, seconds a measurement, dir on a real disk. */
export async function benchStore(options) {
  console.log(`store: LUN of ${LUN_BYTES >> 20} MiB, one write a track, QD${DEPTH}; medians`);
  await firstWrites(options);
  await flushHeavy(options);
  console.log('');
}
