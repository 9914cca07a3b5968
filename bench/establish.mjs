/**
 * What an establish costs: LUNs of very different sizes, each with the same 4 GiB written, through
 * the engine facade and durable (the promise resolves after the commit). One process, one pool.
 *
 * usage: node bench/establish.mjs DIR   (DIR exists; 4 GiB are written there)
 */

import path from 'node:path';
import process from 'node:process';

import { createLogger } from '../dist/base/log.js';
import { openEngine } from '../dist/engine/index.js';
import { startNbdListeners } from '../dist/nbd/listener.js';
import { runLoad } from './loadgen.mjs';

const GIB = 2 ** 30;
const WRITTEN_BYTES = 4 * GIB;
const SIZES = [4 * GIB, 64 * GIB, 1024 * GIB, 16 * 1024 * GIB];
const REPEATS = 7;
const SOURCE_ID = 0x1200;
const TARGET_ID = 0x1300;
const GOAL_MS = 50;

function size(bytes) {
  return bytes >= 1024 * GIB ? `${bytes / (1024 * GIB)} TiB` : `${bytes / GIB} GiB`;
}

/** Names are volume ids; what the storage array would do is not measured here. */
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

async function timed(action) {
  const start = process.hrtime.bigint();
  const value = await action();
  return { value, ms: Number(process.hrtime.bigint() - start) / 1e6 };
}

async function measure(engine, server, bytes) {
  await engine.createVolume(SOURCE_ID, bytes, '');
  await engine.createVolume(TARGET_ID, bytes, '');
  await runLoad(server, { fill: true, block: 1 << 20, depth: 4, range: WRITTEN_BYTES });
  await engine.flush(); // or the first establish would pay for 4 GiB of dirty pages
  const times = [];
  for (let i = 0; i < REPEATS; i++) {
    const { value, ms } = await timed(() =>
      engine.establish([{ sourceId: SOURCE_ID, targetId: TARGET_ID, noCopy: true }]),
    );
    times.push(ms);
    await engine.withdraw(value[0]);
  }
  await deleteWhenFree(engine, SOURCE_ID);
  await deleteWhenFree(engine, TARGET_ID);
  return times.sort((a, b) => a - b);
}

/** The load generator has gone, but its connection may be a moment away from detaching. */
async function deleteWhenFree(engine, id) {
  const deadline = Date.now() + 10_000;
  while (engine.volume(id)?.attached > 0 && Date.now() < deadline) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  await engine.deleteVolume(id);
}

const dir = process.argv[2];
const unixPath = path.join(dir, 'nbd.sock');
const engine = await openEngine({ dir: path.join(dir, 'pool'), capacityBytes: 64 * GIB });
const nbd = await startNbdListeners({
  engine,
  catalog: catalogOf(engine),
  unixPath,
  log: createLogger({ level: 'error' }),
});
const server = { address: `unix:${unixPath}`, exportName: String(SOURCE_ID) };
console.log(`establish, durable, ${size(WRITTEN_BYTES)} written, pool in ${dir}`);
console.log(`${''.padEnd(28)}${'median ms'.padStart(12)}${'worst ms'.padStart(12)}`);
for (const bytes of SIZES) {
  const times = await measure(engine, server, bytes);
  const goal = bytes === 1024 * GIB ? `   (goal < ${GOAL_MS})` : '';
  const [median, worst] = [times[Math.floor(REPEATS / 2)], times[REPEATS - 1]];
  const cells = [median, worst].map((ms) => ms.toFixed(2).padStart(12)).join('');
  console.log(`${`thin LUN of ${size(bytes)}`.padEnd(28)}${cells}${goal}`);
}
await nbd.close();
await engine.close();
