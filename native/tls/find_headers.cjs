// Prints the folder that has the headers of the OpenSSL this Node runs on, or nothing.
const fs = require('node:fs');
const path = require('node:path');

const NODE_FOLDERS = [process.env.npm_config_nodedir, path.resolve(process.execPath, '..', '..')]
  .filter(Boolean)
  .map((prefix) => path.join(prefix, 'include', 'node'));
/** A Node that is linked to the system's OpenSSL has its headers here. */
const SYSTEM_FOLDER = '/usr/include';

function has(folder) {
  return fs.existsSync(path.join(folder, 'openssl', 'ssl.h'));
}

/** Whether they are of the major version that runs, within which OpenSSL keeps its ABI. */
function fits(folder) {
  if (!has(folder)) return false;
  const text = fs.readFileSync(path.join(folder, 'openssl', 'opensslv.h'), 'utf8');
  const major = /OPENSSL_VERSION_MAJOR\s+(\d+)/.exec(text)?.[1];
  return major !== undefined && major === process.versions.openssl?.split('.')[0];
}

const folder = NODE_FOLDERS.find(has) ?? (fits(SYSTEM_FOLDER) ? SYSTEM_FOLDER : '');
process.stdout.write(folder);
