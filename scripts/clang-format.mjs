// Checks the format of the C++ files, or rewrites them (--write). Exit code 77 means: could not be
// checked, and why.
//
// Versions of clang-format disagree about details, so only the version this repository is formatted
// with is used.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const VERSION = 14;
const SKIPPED = 77;
const root = fileURLToPath(new URL('..', import.meta.url));

function sources(folder) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return entry.name.startsWith('build') ? [] : sources(path);
    return /\.(h|cc)$/.test(entry.name) ? [path] : [];
  });
}

function installedVersion() {
  try {
    const text = execFileSync('clang-format', ['--version'], { encoding: 'utf8' });
    return Number(/version (\d+)/.exec(text)?.[1]);
  } catch {
    return undefined;
  }
}

const found = installedVersion();
if (found !== VERSION) {
  console.log(`clang-format ${VERSION} formats this repository; found ${found ?? 'none'}`);
  process.exit(SKIPPED);
}
const mode = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '--Werror'];
const files = ['native', 'bench', 'test'].flatMap(sources);
process.exit(
  spawnSync('clang-format', [...mode, ...files], { cwd: root, stdio: 'inherit' }).status ?? 1,
);
