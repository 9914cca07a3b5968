/**
 * How long hosts wait for an establish: 20 pairs of thin 1 TiB LUNs, established together again and
 * again while every source is written. For each establish the longest write of each source that
 * overlaps it, and as many windows of the same length in between, without one.
 *
 * usage: node bench/stall.mjs DIR   (DIR exists; about 3 GiB are written there)
 */

import { fork } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';

import { createLogger } from '../dist/base/log.js';
import { openEngine } from '../dist/engine/index.js';
import { startNbdListeners } from '../dist/nbd/listener.js';

const TIB = 2 ** 40;
const PAIRS = 20;
const ROUNDS = Number(process.env['FLASHLUN_STALL_ROUNDS'] ?? 60);
const WARM_MS = 3_000;
const BETWEEN_MS = 50;
/** Of each source that is written; the rest of the terabyte is what the establish has to share. */
const RANGE_BYTES = 64 * 2 ** 20;
const GOAL_MS = 20;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const now = () => Number(process.hrtime.bigint());

function catalogOf(engine) {
  const describe = (volume) => ({
    name: String(volume.id),
    description: '',
    volumeId: volume.id,
    sizeBytes: volume.sizeBytes,
    readOnly: false,
  });
  return {
    list: () => engine.volumes().map(describe),
    resolve: (name) => {
      const volume = engine.volume(Number(name));
      return volume && describe(volume);
    },
  };
}

function ask(writer, message) {
  return new Promise((resolve) => {
    writer.once('message', resolve);
    writer.send(message);
  });
}

function percentile(values, share) {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)];
}

function line(what, values) {
  const cells = [0.5, 0.99, 1].map((share) => percentile(values, share).toFixed(2).padStart(12));
  return `${what.padEnd(44)}${cells.join('')}`;
}

const dir = process.argv[2];
const unixPath = path.join(dir, 'nbd.sock');
const engine = await openEngine({ dir: path.join(dir, 'pool'), capacityBytes: 16 * 2 ** 30 });
const pairs = [];
for (let n = 0; n < PAIRS; n++) {
  const pair = { sourceId: 0x1200 + n, targetId: 0x1300 + n, noCopy: true };
  for (const id of [pair.sourceId, pair.targetId]) await engine.createVolume(id, TIB, '');
  pairs.push(pair);
}
const nbd = await startNbdListeners({
  engine,
  catalog: catalogOf(engine),
  unixPath,
  log: createLogger({ level: 'error' }),
});
const writer = fork(
  path.join(import.meta.dirname, 'stall-writer.mjs'),
  [unixPath, String(RANGE_BYTES), ...pairs.map(({ sourceId }) => String(sourceId))],
  { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
);
await new Promise((resolve) => writer.once('message', resolve));
await pause(WARM_MS);

const stalls = [];
const quiet = [];
const established = [];
for (let round = 0; round < ROUNDS; round++) {
  await pause(BETWEEN_MS);
  const begun = now();
  const ids = await engine.establish(pairs);
  const ended = now();
  established.push((ended - begun) / 1e6);
  stalls.push(...(await ask(writer, { from: begun, to: ended })).longestMs);
  for (const id of ids) await engine.withdraw(id);
  await pause(BETWEEN_MS);
  const from = now();
  await pause((ended - begun) / 1e6);
  quiet.push(...(await ask(writer, { from, to: now() })).longestMs);
}
writer.send({ end: true });
await new Promise((resolve) => writer.once('exit', resolve));
await nbd.close();
await engine.close();

console.log(`establish of ${PAIRS} pairs of 1 TiB under load, ${ROUNDS} times, pool in ${dir}`);
console.log(
  `${''.padEnd(44)}${['median ms', 'p99 ms', 'worst ms'].map((t) => t.padStart(12)).join('')}`,
);
console.log(line('establish, durable', established));
console.log(`${line('longest write of a source during it', stalls)}   (goal p99 < ${GOAL_MS})`);
console.log(line('the same between two establishes', quiet));
