// npm run test:soak: the long runs of the proof, each bounded in time. See CONTRIBUTING.md.
//
// `--minutes N` (or FLASHLUN_SOAK_MINUTES; 35) scales all of them together; `--only a,b` runs some.
// Every stage runs even when an earlier one failed. Random stages print their seed. The last line
// is `N passed, N failed, N skipped`; the exit code is 0 only when nothing failed.
import { spawn, spawnSync } from 'node:child_process';
import { createWriteStream, mkdirSync, readdirSync } from 'node:fs';
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const logs = join(root, 'build/soak');
const DEFAULT_MINUTES = 35;
/** A stage that takes this much longer than its share hangs. */
const PATIENCE = 4;
/** Minutes of each stage within DEFAULT_MINUTES; what is fixed in amount has only a limit. */
const SHARE = { simulation: 12, exhaustive: 4, tsan: 4, fuzz: 7, kill: 8 };
const CRASH_STATES = 1_000_000;
const KILL_ROUNDS = 200;
const SHOWN_LINES = 40;
/** Tests over threads of the kernel; what runs over fibers has no races. */
const THREADED = [
  'stress_test',
  'store_test',
  'ops_test',
  'map_test',
  'async_test',
  'space_test',
  'status_test',
  'nbd_limits_test',
];

const { values } = parseArgs({
  options: { minutes: { type: 'string' }, only: { type: 'string' } },
});
const minutes = Number(values.minutes ?? process.env.FLASHLUN_SOAK_MINUTES ?? DEFAULT_MINUTES);
if (!(minutes > 0 && minutes < 10_000)) {
  console.error(`--minutes ${values.minutes}: a number of minutes, for example ${DEFAULT_MINUTES}`);
  process.exit(2);
}
const scale = minutes / DEFAULT_MINUTES;
const seed = Number(process.env.FLASHLUN_SEED ?? randomInt(1, 2 ** 31));
const totals = { passed: 0, failed: [], skipped: [] };

/** Runs a command with its output in build/soak/NAME.log; answers with its last lines. */
function run(name, command, args, { limitMinutes, env = {} }) {
  return new Promise((resolve) => {
    const log = createWriteStream(join(logs, `${name}.log`));
    const child = spawn(command, args, {
      cwd: root,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}`,
        ...env,
      },
    });
    let tail = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        log.write(chunk);
        tail = (tail + chunk).slice(-16_384);
      });
    }
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      process.kill(-child.pid, 'SIGKILL');
    }, limitMinutes * 60_000);
    child.on('error', (error) => (tail += error.message));
    child.on('close', (code) => {
      clearTimeout(timer);
      log.end();
      if (late) tail += `\n${name}: killed after ${limitMinutes.toFixed(1)} minutes`;
      resolve({ ok: code === 0, tail });
    });
  });
}

/** One counted run: a line when it passes, the end of its output when not. */
async function counted(name, command, args, options) {
  const startedAt = performance.now();
  const { ok, tail } = await run(name, command, args, options);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(0);
  const told = tail
    .split('\n')
    .filter((line) => /simulation:|exhaustive:|images|Done \d+ runs|kill loop:/.test(line));
  if (ok) {
    totals.passed += 1;
    console.log(`  ok    ${name} (${seconds} s) ${told.join('; ').trim().slice(0, 160)}`);
    return;
  }
  totals.failed.push(`${name}: build/soak/${name}.log (${[command, ...args].join(' ')})`);
  console.log(`  FAIL  ${name} (${seconds} s)\n${tail.split('\n').slice(-SHOWN_LINES).join('\n')}`);
}

function skip(name, why) {
  totals.skipped.push(`${name}: ${why}`);
  console.log(`  skip  ${name}: ${why}`);
}

/**
 * Builds native/NAME, all of it or some programs; false when it cannot be built, which counts as
 * failed.
 */
async function build(name, options, programs = []) {
  const folder = `native/${name}`;
  const configure = ['-S', 'native', '-B', folder, ...options];
  const limit = { limitMinutes: 20 };
  const configured = await run(`${name}-configure`, 'cmake', configure, limit);
  const make = ['--build', folder, '--parallel', '2'];
  if (programs.length > 0) make.push('--target', ...programs);
  const built = configured.ok && (await run(name, 'cmake', make, limit));
  if (built && built.ok) return true;
  totals.failed.push(`${name} does not build: build/soak/${name}.log`);
  console.log((built || configured).tail);
  return false;
}

/** Stays as long as its share says: `amount` at the default, less or more with --minutes. */
function scaled(amount) {
  return Math.max(1, Math.round(amount * scale));
}

async function simulation() {
  if (!(await build('build-test', ['-DFLASHLUN_TESTS=ON'], ['simulation_test']))) return;
  const args = ['--states', String(scaled(CRASH_STATES)), '--seed', String(seed)];
  const limitMinutes = SHARE.simulation * scale * PATIENCE + 1;
  await counted('simulation', 'native/build-test/test/simulation_test', args, { limitMinutes });
}

async function exhaustive() {
  if (!(await build('build-test', ['-DFLASHLUN_TESTS=ON'], ['exhaustive_test']))) return;
  const program = 'native/build-test/test/exhaustive_test';
  const limitMinutes = SHARE.exhaustive * PATIENCE + 1;
  // Fixed in amount: in a short run the sequences of `npm test`.
  await counted('exhaustive', program, scale < 1 ? [] : ['--full'], { limitMinutes });
}

async function tsan() {
  const options = ['-DFLASHLUN_TESTS=ON', '-DFLASHLUN_SANITIZE=thread'];
  // The sanitizer does not model fences (core/leaf.h, core/epoch.h) and says so: a warning.
  options.push('-DCMAKE_BUILD_TYPE=None', '-DCMAKE_CXX_FLAGS=-O1 -g1 -Wno-error=tsan');
  if (!(await build('build-tsan', options, THREADED))) return;
  const env = { TSAN_OPTIONS: 'halt_on_error=1' };
  for (const name of THREADED) {
    const limitMinutes = SHARE.tsan * PATIENCE;
    await counted(`tsan-${name}`, `native/build-tsan/test/${name}`, [], { limitMinutes, env });
  }
}

async function fuzz() {
  const compiler = ['clang++-14', 'clang++'].find(
    (name) => spawnSync(name, ['--version']).status === 0,
  );
  if (compiler === undefined)
    return skip('fuzz', 'needs clang++ with libFuzzer (apt-get install clang-14)');
  const options = ['-DFLASHLUN_FUZZ=ON', `-DCMAKE_CXX_COMPILER=${compiler}`];
  options.push('-DFLASHLUN_SANITIZE=fuzzer-no-link,address,undefined');
  options.push('-DCMAKE_BUILD_TYPE=None', '-DCMAKE_CXX_FLAGS=-O1 -g1');
  if (!(await build('build-fuzz', options))) return;
  const targets = readdirSync(join(root, 'native/fuzz/corpus'));
  const seconds = Math.max(5, Math.round((SHARE.fuzz * 60 * scale) / targets.length));
  for (const target of targets) {
    const found = join(logs, 'fuzz', target);
    mkdirSync(found, { recursive: true });
    // New inputs go to the first folder; the kept corpus is only read.
    const args = [`-max_total_time=${seconds}`, '-max_len=9000', '-timeout=60', `-seed=${seed}`];
    args.push(`-artifact_prefix=${found}-`, found, `native/fuzz/corpus/${target}`);
    const limitMinutes = (seconds / 60) * PATIENCE + 2;
    await counted(`fuzz-${target}`, `native/build-fuzz/fuzz/${target}_fuzz`, args, {
      limitMinutes,
    });
  }
}

async function kill() {
  const rounds = scaled(KILL_ROUNDS);
  const args = ['run', '--project', 'integration', 'test/integration/kill-loop.test.ts'];
  await counted('kill', 'vitest', args, {
    limitMinutes: SHARE.kill * scale * PATIENCE + 2,
    env: { FLASHLUN_KILL_ROUNDS: String(rounds), FLASHLUN_TEST_SEED: String(seed) },
  });
}

const stages = { simulation, exhaustive, tsan, fuzz, kill };
const names = values.only?.split(',') ?? Object.keys(stages);
const unknown = names.filter((name) => !(name in stages));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}; there are ${Object.keys(stages).join(', ')}`);
  process.exit(2);
}
mkdirSync(logs, { recursive: true });
console.log(`soak: about ${minutes} minutes, seed ${seed} (FLASHLUN_SEED=${seed} repeats it)`);
for (const name of names) {
  console.log(`\n== ${name}`);
  await stages[name]();
}
if (totals.skipped.length > 0) console.log(`\nSkipped:\n  ${totals.skipped.join('\n  ')}`);
if (totals.failed.length > 0) console.log(`\nFailed:\n  ${totals.failed.join('\n  ')}`);
const { passed, failed, skipped } = totals;
console.log(`\n${passed} passed, ${failed.length} failed, ${skipped.length} skipped`);
process.exit(failed.length === 0 ? 0 : 1);
