// Exit code 0 when node_modules holds exactly what package-lock.json names and better-sqlite3 loads
// in this Node.js.
//
// npm leaves its own list of what it installed in node_modules/.package-lock.json. Comparing the
// two lists costs a few milliseconds; `npm ci` costs a minute. The load proves that the compiled
// part fits: it is tied to one Node.js ABI.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const root = new URL('..', import.meta.url);

function packagesOf(path) {
  return JSON.parse(readFileSync(new URL(path, root), 'utf8')).packages;
}

function listsAgree() {
  const installed = packagesOf('node_modules/.package-lock.json');
  return Object.entries(packagesOf('package-lock.json')).every(([path, wanted]) => {
    const found = installed[path];
    // Packages for other platforms are in the lock file but never installed here.
    if (path === '' || (found === undefined && wanted.optional === true)) return true;
    return found?.version === wanted.version && found?.integrity === wanted.integrity;
  });
}

function databaseLoads() {
  const Database = createRequire(import.meta.url)('better-sqlite3');
  new Database(':memory:').close();
  return true;
}

let current = false;
try {
  current = listsAgree() && databaseLoads();
} catch {
  // A missing list or a failed load both mean: install again, which reports what is wrong.
}
process.exit(current ? 0 : 1);
