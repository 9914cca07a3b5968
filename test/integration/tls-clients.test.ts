/**
 * The clients people use, over TLS: X.509 and pre-shared keys, TCP and unix socket, by native code
 * and over the bridge. They are GnuTLS' side of the matter.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { exec, ok } from '../helpers/exec.js';
import { Random } from '../helpers/random.js';
import { findTool, requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { makePsk, Pki } from '../helpers/tls.js';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const SERIAL = '20313698';

const hasOpenssl = findTool('openssl') !== undefined;
const scope = new Scope();
let pki: Pki;
let psk: string;
let alice: string;

beforeAll(async () => {
  psk = await makePsk(scope, 'alice', 'bob');
  if (!hasOpenssl) return;
  pki = await Pki.make(scope);
  alice = await pki.client('alice');
});

afterAll(() => scope.close());

/** How a client proves who it is: libnbd's URI, QEMU's object, the server's options. */
interface Credentials {
  readonly kind: string;
  readonly server: () => string[];
  readonly user: string;
  readonly query: () => string;
  readonly object: () => string;
}

const X509: Credentials = {
  kind: 'X.509',
  server: () => ['--nbd-tls-certificates', pki.server, '--nbd-tls-verify-peer'],
  user: '',
  query: () => `tls-certificates=${alice}`,
  object: () => `tls-creds-x509,id=tls0,endpoint=client,dir=${alice}`,
};

const PSK: Credentials = {
  kind: 'PSK',
  server: () => ['--nbd-tls-psk', psk],
  user: 'alice@',
  query: () => `tls-psk-file=${psk}`,
  object: () => `tls-creds-psk,id=tls0,endpoint=client,dir=${dirname(psk)},username=alice`,
};

const WAYS = [X509, PSK].flatMap((credentials) =>
  ['native', 'bridge'].map((how) => ({ ...credentials, how })),
);

function tcpUri(server: Server, credentials: Credentials, name: string): string {
  const { port } = server.tcp;
  return `nbds://${credentials.user}localhost:${port}/${name}?${credentials.query()}`;
}

function unixUri(server: Server, credentials: Credentials, name: string): string {
  const query = `socket=${server.unixPath}&${credentials.query()}`;
  return `nbds+unix://${credentials.user}/${name}?${query}`;
}

/** QEMU's way to the server: an object and image options. */
function qemu(server: Server, credentials: Credentials, name: string, unix = false): string[] {
  const where = unix
    ? `server.type=unix,server.path=${server.unixPath},tls-hostname=localhost`
    : `server.type=inet,server.host=localhost,server.port=${server.tcp.port}`;
  const options = `driver=nbd,${where},export=${name},tls-creds=tls0`;
  return ['--object', credentials.object(), '--image-opts', options];
}

describe.each(WAYS)('$kind, $how', (way) => {
  const own = new Scope();
  let server: Server;

  beforeAll(async () => {
    if (way.kind === 'X.509' && !hasOpenssl) return;
    const args = ['--nbd-tls', 'require', '--nbd-tls-transport', way.how, ...way.server()];
    server = await startServer(own, { args });
  });
  afterAll(() => own.close());

  const needs = (...tools: string[]): string[] =>
    way.kind === 'X.509' ? [...tools, 'openssl'] : tools;

  test('nbdinfo, over TCP and the unix socket', async (context) => {
    requires(context, ...needs('nbdinfo'));
    for (const uri of [tcpUri(server, way, SERIAL), unixUri(server, way, SERIAL)]) {
      expect(await ok('nbdinfo', ['--size', uri])).toBe(`${GIB}\n`);
    }
    const info = JSON.parse(await ok('nbdinfo', ['--json', tcpUri(server, way, SERIAL)])) as {
      TLS: boolean;
    };
    expect(info.TLS).toBe(true);
    const list = await ok('nbdinfo', ['--list', '--json', tcpUri(server, way, '')]);
    expect(list).toContain(SERIAL);
  });

  test('without TLS nothing', async (context) => {
    requires(context, ...needs('nbdinfo'));
    const refused = await exec('nbdinfo', [server.tcpUri(SERIAL)]);
    expect(refused.code).not.toBe(0);
    // How it says so depends on its version.
    expect(refused.stderr).toMatch(/TLS|not supported/);
  });

  test('nbdcopy to a LUN and back gives the same bytes', async (context) => {
    requires(context, ...needs('nbdcopy'));
    await scoped(async (inner) => {
      const dir = await inner.tempDir();
      const volume = await server.api.createVolume('12', 32 * MIB);
      const [source, back] = [join(dir, 'source'), join(dir, 'back')];
      await writeFile(source, new Random(3).bytes(32 * MIB));
      await ok('nbdcopy', ['--flush', source, tcpUri(server, way, volume.serial)]);
      await ok('nbdcopy', [unixUri(server, way, volume.serial), back]);
      expect((await readFile(back)).equals(await readFile(source))).toBe(true);
    });
  });

  test.for([false, true])('qemu-io and qemu-img (unix socket: %s)', async (unix, context) => {
    requires(context, ...needs('qemu-io', 'qemu-img'));
    const volume = await server.api.createVolume('12', 16 * MIB);
    const where = qemu(server, way, volume.serial, unix);
    const commands = [
      'write -P 0xaa 0 1M',
      'write -P 0xcc 1001 3',
      'read -P 0xaa 0 1001',
      'read -P 0xcc 1001 3',
      'write -z 131072 70000',
      'read -P 0 131072 70000',
      'discard 393216 131072',
      'write -f -P 0xdd 12M 4M',
      'flush',
      'read -P 0xdd 12M 4M',
    ].flatMap((command) => ['-c', command]);
    const output = await ok('qemu-io', [...where.slice(0, 2), ...commands, ...where.slice(2)]);
    expect(output).not.toMatch(/fail|mismatch/i);
    const info = await ok('qemu-img', ['info', '--output=json', ...where]);
    expect(JSON.parse(info)).toMatchObject({ 'virtual-size': 16 * MIB });
  });
});

const HOW = ['native', 'bridge'];
test.for(HOW)('a wrong key and an unknown name are refused (%s)', async (how, context) => {
  requires(context, 'nbdinfo');
  await scoped(async (own) => {
    const args = ['--nbd-tls', 'on', '--nbd-tls-transport', how, '--nbd-tls-psk', psk];
    const server = await startServer(own, { args });
    const wrong = await makePsk(own, 'alice', 'mallory');
    for (const name of ['alice', 'mallory']) {
      const uri = `nbds://${name}@localhost:${server.tcp.port}/${SERIAL}?tls-psk-file=${wrong}`;
      expect((await exec('nbdinfo', [uri])).code).not.toBe(0);
    }
    expect(await ok('nbdinfo', ['--size', tcpUri(server, PSK, SERIAL)])).toBe(`${GIB}\n`);
    expect(await ok('nbdinfo', ['--size', server.tcpUri(SERIAL)])).toBe(`${GIB}\n`);
  });
});

test('changes of keys are no matter to GnuTLS', async (context) => {
  requires(context, 'nbdcopy');
  await scoped(async (own) => {
    const args = ['--nbd-tls', 'require', '--nbd-tls-transport', 'native', '--nbd-tls-psk', psk];
    // Some four changes in each direction; GnuTLS takes no more than eight in a second.
    const env = { FLASHLUN_TEST_TLS_REKEY_RECORDS: '500' };
    const server = await startServer(own, { args, env });
    const volume = await server.api.createVolume('12', 32 * MIB);
    const dir = await own.tempDir();
    const [source, back] = [join(dir, 'source'), join(dir, 'back')];
    await writeFile(source, new Random(5).bytes(32 * MIB));
    const uri = tcpUri(server, PSK, volume.serial);
    const single = ['--connections=1'];
    await ok('nbdcopy', [...single, source, uri]);
    await ok('nbdcopy', [...single, uri, back]);
    expect((await readFile(back)).equals(await readFile(source))).toBe(true);
  });
});
