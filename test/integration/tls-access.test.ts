/** Access rules by what TLS has proved: subject, alternative name, pre-shared key. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { exec, ok } from '../helpers/exec.js';
import { findTool, requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { makePsk, Pki } from '../helpers/tls.js';

const SERIAL = '20313698';
const hasOpenssl = findTool('openssl') !== undefined;
const scope = new Scope();
let pki: Pki;
let alice: string;
let bob: string;
let psk: string;

beforeAll(async () => {
  psk = await makePsk(scope, 'alice', 'bob');
  if (!hasOpenssl) return;
  pki = await Pki.make(scope);
  alice = await pki.client('alice');
  bob = await pki.client('bob');
});

afterAll(() => scope.close());

interface Way {
  readonly kind: string;
  readonly tools: readonly string[];
  /** The name that alice proves. */
  readonly name: () => string;
  readonly server: () => string[];
  readonly uri: (server: Server, who: 'alice' | 'bob') => string;
}

const x509 = (server: Server, who: string): string =>
  `nbds://localhost:${server.tcp.port}/${SERIAL}?tls-certificates=${who === 'alice' ? alice : bob}`;

const WAYS: readonly Way[] = [
  {
    kind: 'subject of a certificate',
    tools: ['nbdinfo', 'openssl'],
    name: () => 'CN=alice,O=Lab',
    server: () => ['--nbd-tls-certificates', pki.server, '--nbd-tls-verify-peer'],
    uri: x509,
  },
  {
    kind: 'alternative name of a certificate',
    tools: ['nbdinfo', 'openssl'],
    name: () => 'DNS:alice.lab',
    server: () => ['--nbd-tls-certificates', pki.server, '--nbd-tls-verify-peer'],
    uri: x509,
  },
  {
    kind: 'pre-shared key',
    tools: ['nbdinfo'],
    name: () => 'PSK:alice',
    server: () => ['--nbd-tls-psk', psk],
    uri: (server, who) =>
      `nbds://${who}@localhost:${server.tcp.port}/${SERIAL}?tls-psk-file=${psk}`,
  },
];

describe.each(WAYS)('by the $kind', (way) => {
  test.for(['native', 'bridge'])('a host is who proves its name, %s', (how, context) => {
    requires(context, ...way.tools);
    return scoped(async (own) => {
      const args = ['--nbd-tls', 'on', '--nbd-tls-transport', how, ...way.server()];
      const server = await startServer(own, { args });
      await server.flashlun('host', 'create', 'vm', '--tls-identity', way.name());
      const allowed = await server.flashlun('volume', 'allow', '1203', '--host', 'vm');
      expect(allowed.code).toBe(0);
      await ok('nbdinfo', ['--size', way.uri(server, 'alice')]);
      const others = [
        way.uri(server, 'bob'),
        `nbd://localhost:${server.tcp.port}/${SERIAL}`,
        `nbd+unix:///${SERIAL}?socket=${server.unixPath}`,
      ];
      for (const uri of others) {
        const { code, stderr } = await exec('nbdinfo', ['--size', uri]);
        expect(code, uri).not.toBe(0);
        expect(stderr, uri).toMatch(/unknown|no export|not available|No such/i);
      }
    });
  });
});
