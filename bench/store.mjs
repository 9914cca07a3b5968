/**
 * `npm run bench -- --only store`: what copy services and flushes cost, as ratios within one run.
 *
 * First writes and overwrites touch every track of the LUN once, in an order that jumps, one write
 * a track, at 4 and at 64 KiB; pools in memory, so that CPU and not a disk is measured. Flush-heavy
 * and reads run on the real disk: flushes beside pwrite and fdatasync in slices of 0.1 s in turn,
 * because the disk here was seen to answer in 0.1 ms for a while and then in 4 ms;
 * reads from the page cache, from the disk, and of a LUN whose tracks random first writes moved.
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
const FLUSH_RANGE = 2 ** 24;
const SLICE_SECONDS = 0.1;
/** Slices of a round. */
const SLICES = 20;
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
    // Before and after the copies: the first pass may run beside a growing file.
    const overwrites = ['plain overwrite', 'overwrite again'];
    const plain = median(overwrites.flatMap((name) => rates.get(`${size} ${name}`)));
    for (const [name, values] of rates) {
      if (!name.startsWith(`${size} `)) continue;
      const goal = name.includes('establish') ? `>= ${RATE_GOAL}` : undefined;
      row(name, median(values), 'w/s', median(values) / plain, goal);
    }
  }
}

/** A file of 16 MiB that is on the disk already. */
function openRaw(dir) {
  const file = openSync(path.join(dir, 'raw'), 'w+');
  writeSync(file, Buffer.alloc(FLUSH_RANGE, 7));
  fdatasyncSync(file);
  return file;
}

/** Microseconds of a 4 KiB pwrite and its fdatasync: the mean over a slice. */
function rawFlush(file) {
  const data = Buffer.alloc(4096, 7);
  const startedAt = performance.now();
  let count = 0;
  while (performance.now() - startedAt < SLICE_SECONDS * 1000) {
    writeSync(file, data, 0, data.length, (count++ * 1031 * data.length) % FLUSH_RANGE);
    fdatasyncSync(file);
  }
  return ((performance.now() - startedAt) * 1000) / count;
}

/** Microseconds of a write and of the flush behind it: the mean over a slice. */
async function servedFlush(server) {
  const load = { write: true, flush: true, depth: 1, range: FLUSH_RANGE, seconds: SLICE_SECONDS };
  const { requests, seconds } = await runLoad(server, load);
  return (seconds * 1e6) / (requests / 2);
}

async function flushHeavy(server, dir, options) {
  const file = openRaw(dir);
  const raw = [];
  const ours = [];
  await servedFlush(server);
  for (let slice = 0; slice < options.rounds * SLICES; slice++) {
    raw.push(rawFlush(file));
    ours.push(await servedFlush(server));
  }
  closeSync(file);
  row('pwrite + fdatasync, 4 KiB', median(raw), 'us');
  row('write + flush', median(ours), 'us', median(ours) / median(raw), `<= ${LATENCY_GOAL}`);
}

/** Writes back what is dirty and drops the tracks from the page cache. */
function dropCache(dir) {
  const file = path.join(dir, 'data', 'pool', 'tracks');
  const flags = ['oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none'];
  execFileSync('dd', ['if=/dev/null', `of=${file}`, ...flags]);
}

/** MB/s of one pass over the LUN, or of random reads for a while. */
async function readMbps(server, load) {
  return (await runLoad(server, load)).mbps;
}

async function reads(server, dir, options) {
  const random = { block: 4096, depth: 32, seconds: options.seconds };
  const sequential = { block: 262_144, depth: 8, pass: true };
  const rates = { warm: [], cold: [], inOrder: [], moved: [] };
  const fill = () => runLoad(server, { fill: true, block: 2 ** 20, depth: 4 });
  for (let round = 0; round < options.rounds; round++) {
    await fill();
    rates.warm.push(await readMbps(server, random));
    dropCache(dir);
    rates.cold.push(await readMbps(server, random));
    dropCache(dir);
    rates.inOrder.push(await readMbps(server, sequential));
    const pair = `${SOURCE}:${targets(1)[0]}`;
    cli(dir, 'flashcopy', 'establish', pair, '--nocopy');
    await writeOnce(server, TRACK_BYTES);
    dropCache(dir);
    rates.moved.push(await readMbps(server, sequential));
    cli(dir, 'flashcopy', 'withdraw', pair);
  }
  row('random read 4 KiB QD32, page cache', median(rates.warm), 'MB/s');
  row('random read 4 KiB QD32, from disk', median(rates.cold), 'MB/s');
  row('sequential read, from disk', median(rates.inOrder), 'MB/s');
  const ratio = median(rates.moved) / median(rates.inOrder);
  row('the same, every track moved at random', median(rates.moved), 'MB/s', ratio);
}

async function onDisk(options) {
  const dir = mkdtempSync(path.join(options.dir, 'flashlun-bench-'));
  const server = await startFlashlun(dir, LUN_BYTES);
  try {
    cli(dir, 'volume', 'create', '--lss', '13', '--id', targets(1)[0], '--size', `${LUN_BYTES}`);
    await runLoad(server, { fill: true, block: 2 ** 20, depth: 4 });
    await flushHeavy(server, dir, options);
    await reads(server, dir, options);
  } finally {
    await server.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}

/** All of the store's table. `options`: rounds, seconds a measurement, dir on a real disk. */
export async function benchStore(options) {
  console.log(`store: LUN of ${LUN_BYTES >> 20} MiB, one write a track, QD${DEPTH}; medians`);
  await firstWrites(options);
  await onDisk(options);
  console.log('');
}
