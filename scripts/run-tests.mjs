// Runs the stages named on the command line, or all of them, and adds up what they found.
//
// Every stage runs even when an earlier one failed: one run tells everything that is wrong. The
// last line is `N passed, N failed, N skipped` over all of them; the exit code is 0 only when
// nothing failed.
import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { leftovers, sweep } from './leftovers.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const results = join(root, 'build/test-results');
const temp = mkdtempSync(join(tmpdir(), 'flashlun-run-'));
// Tests that act as another user open what they give it below here.
chmodSync(temp, 0o711);
/** What clang-format.mjs ends with when there is nothing to check with. */
const SKIPPED = 77;
/** A stage that takes this long hangs; it is killed and counts as failed. */
const STAGE_LIMIT_MS = 25 * 60_000;

/** Adds what one stage found: counts, and one line for each failure and each skip. */
class Totals {
  passed = 0;
  failed = [];
  skipped = [];

  pass(count = 1) {
    this.passed += count;
  }

  fail(line) {
    this.failed.push(line);
  }

  skip(line) {
    this.skipped.push(line);
  }

  /** The closing line; its wording is read by people and by scripts. */
  line() {
    return `${this.passed} passed, ${this.failed.length} failed, ${this.skipped.length} skipped`;
  }
}

/**
 * Runs a command in the checkout and answers with its exit code and, when `capture` is set, what it
 * printed.
 */
function run(command, args, { capture = false, env = {} } = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      stdio: ['ignore', capture ? 'pipe' : 'inherit', capture ? 'pipe' : 'inherit'],
      env: {
        ...process.env,
        PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}`,
        TMPDIR: temp,
        ...env,
      },
    });
    let output = '';
    child.stdout?.on('data', (chunk) => (output += chunk));
    child.stderr?.on('data', (chunk) => (output += chunk));
    const timer = setTimeout(() => child.kill('SIGKILL'), STAGE_LIMIT_MS);
    child.on('error', (error) => (output += error.message));
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ code, output });
    });
  });
}

/** One command that either passes or fails; its output is shown only when it fails. */
async function checkCommand(totals, name, command, args) {
  const { code, output } = await run(command, args, { capture: true });
  if (code === 0) {
    totals.pass();
    console.log(`  ok    ${name}`);
  } else if (code === SKIPPED) {
    totals.skip(`${name}: ${output.trim()}`);
    console.log(`  skip  ${name}: ${output.trim()}`);
  } else {
    totals.fail(`${name} (${[command, ...args].join(' ')})`);
    console.log(`  FAIL  ${name}\n${output.trimEnd()}`);
  }
}

async function check(totals) {
  await checkCommand(totals, 'types', 'tsc', ['-p', 'tsconfig.json', '--noEmit']);
  await checkCommand(totals, 'types of tests', 'tsc', ['-p', 'test/tsconfig.json']);
  await checkCommand(totals, 'lint', 'eslint', ['.']);
  await checkCommand(totals, 'format', 'biome', ['format', '.']);
  await checkCommand(totals, 'format of C++', 'node', ['scripts/clang-format.mjs']);
  await vitest('tidy')(totals);
}

/** The C++ tests as users' builds are compiled; each ctest program counts as one. */
function native(totals) {
  return nativeTests(totals, { name: 'native', build: 'native/build-test' });
}

/**
 * The same programs, and the kept fuzz inputs, under AddressSanitizer and
 * UndefinedBehaviorSanitizer. Both cost a factor of five and more: fewer crash states, and -O1
 * because it compiles in half the time.
 */
function sanitize(totals) {
  return nativeTests(totals, {
    name: 'sanitize',
    build: 'native/build-asan',
    options: [
      '-DFLASHLUN_SANITIZE=address,undefined',
      '-DFLASHLUN_STATES=4000',
      '-DCMAKE_BUILD_TYPE=None',
      '-DCMAKE_CXX_FLAGS=-O1 -g1',
    ],
  });
}

/** Configures, builds and runs the C++ tests in a build folder of their own. */
async function nativeTests(totals, { name, build, options = [] }) {
  const report = join(results, `${name}.xml`);
  const configure = ['-S', 'native', '-B', build, '-DFLASHLUN_TESTS=ON', ...options];
  // Another part of the state space with every commit, and the same one when it is run again.
  configure.push(`-DFLASHLUN_SEED=${await firstSeed()}`);
  await checkCommand(totals, `${name}: configure`, 'cmake', configure);
  await checkCommand(totals, `${name}: build`, 'cmake', ['--build', build, '--parallel', '2']);
  rmSync(report, { force: true });
  await run('ctest', [
    '--test-dir',
    build,
    '--parallel',
    '2',
    '--output-on-failure',
    '--test-output-size-passed',
    '65536',
    '--output-junit',
    report,
  ]);
  if (!existsSync(report)) {
    totals.fail(`${name}: ctest wrote no report`);
    return;
  }
  readJunit(totals, name, readFileSync(report, 'utf8'));
}

/** FLASHLUN_SEED, or a number made of the commit. */
async function firstSeed() {
  if (process.env.FLASHLUN_SEED) return process.env.FLASHLUN_SEED;
  const { code, output } = await run('git', ['rev-parse', 'HEAD'], { capture: true });
  return code === 0 ? Number.parseInt(output.slice(0, 8), 16) : 1;
}

/** What the random tests say of themselves: seeds, crash states, when a mutation was noticed. */
function printFindings(xml) {
  for (const [line] of xml.matchAll(/^.*\b(simulation|mutation|scale): .*$/gm)) {
    console.log(`  ${line.replace(/^.*?(?=simulation:|mutation:|scale:)/, '').slice(0, 110)}`);
  }
}

function readJunit(totals, stage, xml) {
  printFindings(xml);
  for (const [, attributes, body] of xml.matchAll(/<testcase ([^>]*)>([\s\S]*?)<\/testcase>/g)) {
    const name = /name="([^"]*)"/.exec(attributes)?.[1];
    const status = /status="([^"]*)"/.exec(attributes)?.[1];
    if (status === 'run') totals.pass();
    else if (status === 'fail') totals.fail(`${stage}: ${name}`);
    else totals.skip(`${stage}: ${name}: ${/message="([^"]*)"/.exec(body)?.[1] ?? status}`);
  }
}

/** One vitest project. Its counts come from the reporter in test/helpers, through a file. */
function vitest(project) {
  return async (totals) => {
    const report = join(results, `${project}.json`);
    rmSync(report, { force: true });
    const args = ['run', '--project', project];
    // These start servers, loop devices and guests: one file at a time.
    if (project === 'integration' || project === 'lab') args.push('--no-file-parallelism');
    const { code } = await run('vitest', args, { env: { FLASHLUN_TEST_REPORT: report } });
    const found = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')) : undefined;
    totals.pass(found?.passed ?? 0);
    for (const line of found?.failed ?? []) totals.fail(`${project}: ${line}`);
    for (const line of found?.skipped ?? []) totals.skip(`${project}: ${line}`);
    // vitest also fails for errors outside of any test, and must not be believed when it wrote
    // nothing.
    if (code !== 0 && (found?.failed ?? []).length === 0) {
      totals.fail(`${project}: vitest ended with exit code ${code}`);
    }
  };
}

const stages = {
  check,
  native,
  sanitize,
  unit: vitest('unit'),
  integration: vitest('integration'),
  lab: vitest('lab'),
};

async function runStages(names) {
  const totals = new Totals();
  mkdirSync(results, { recursive: true });
  for (const name of names) {
    const startedAt = performance.now();
    console.log(`\n== ${name}`);
    await stages[name](totals);
    for (const line of leftovers(temp)) totals.fail(`${name}: left behind: ${line}`);
    sweep(temp);
    console.log(`   ${name} took ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
  }
  return totals;
}

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(stages);
const unknown = names.filter((name) => !(name in stages));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}; there are ${Object.keys(stages).join(', ')}`);
  process.exit(2);
}
process.on('exit', () => {
  sweep(temp);
  rmSync(temp, { recursive: true, force: true });
});
const totals = await runStages(names);
if (totals.skipped.length > 0) console.log(`\nSkipped:\n  ${totals.skipped.join('\n  ')}`);
if (totals.failed.length > 0) console.log(`\nFailed:\n  ${totals.failed.join('\n  ')}`);
console.log(`\n${totals.line()}`);
process.exit(totals.failed.length === 0 ? 0 : 1);
