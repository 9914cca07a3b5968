import path from 'node:path';
import { expect, test } from 'vitest';
import { stringify } from 'yaml';
import { LOG_LEVELS } from '../../../src/base/log.js';
import {
  printableConfig,
  readConfigFile,
  resolveConfig,
  type ServeOptions,
} from '../../../src/config.js';

test('defaults', () => {
  const config = resolveConfig({}, {});
  expect(config).toEqual({
    dataDir: path.resolve('data'),
    nbd: { host: '127.0.0.1', port: 10809 },
    nbdUnix: path.resolve('data/nbd.sock'),
    nbdLimits: {
      handshakeSeconds: 10,
      handshakes: 128,
      connections: 960,
      connectionsPerClient: 512,
      connectionsPerExport: 128,
      memoryBytes: 256 * 1024 * 1024,
      peerTimeoutSeconds: 120,
    },
    http: { host: '127.0.0.1', port: 8452 },
    cache: 'writeback',
    io: 'auto',
    essSerial: undefined,
    demo: true,
    logLevel: undefined,
    copyBytesPerSecond: undefined,
    activeCopies: 4,
    strict: false,
    poolCapacityBytes: undefined,
    nbdTls: undefined,
    metaMirror: undefined,
    insecureNbd: false,
    insecureHttp: false,
    takeover: false,
  });
});

test('flags win over variables, variables over the file, setting by setting', () => {
  const file =
    'http: 127.0.0.1:1\nnbd: 127.0.0.1:2\ncopy-rate: 3\nno-demo: true\ness-serial: 13698';
  const env = { FLASHLUN_HTTP: '127.0.0.1:11', FLASHLUN_NBD: '127.0.0.1:12', OTHER: 'x' };
  const config = resolveConfig({ http: '127.0.0.1:21', demo: true }, env, file);
  expect(config.http.port).toBe(21);
  expect(config.nbd?.port).toBe(12);
  expect(config.copyBytesPerSecond).toBe(3 * 1024 * 1024);
  expect(config.demo).toBe(false);
  expect(config.essSerial).toBe('13698');
});

test('--print-config gives the same configuration again', () => {
  const config = resolveConfig(
    {
      data: '/var/lib/flashlun',
      nbd: 'none',
      nbdUnix: 'none',
      http: '[::1]:0',
      essSerial: 'fca01',
      demo: false,
      logLevel: 'debug',
      copyRate: '0.5',
      poolCapacity: '2T',
      metaMirror: '/mnt/b/meta',
      insecureNbd: true,
      nbdHandshakes: 7,
      nbdMemory: '1.5G',
    },
    {},
  );
  expect(config.nbdLimits).toMatchObject({ handshakes: 7, memoryBytes: 1.5 * 2 ** 30 });
  const again = resolveConfig({}, {}, stringify(printableConfig(config)));
  expect(again).toEqual(config);
});

test('variables that are no setting are left alone', () => {
  resolveConfig({}, { FLASHLUN_USER: 'admin', FLASHLUN_ADMIN_PASSWORD: 'x', FLASHLUN_ODD: '1' });
});

test.each(LOG_LEVELS)('log level %s', (logLevel) => {
  expect(resolveConfig({ logLevel }, {}).logLevel).toBe(logLevel);
});

test.each<[string, ServeOptions, RegExp]>([
  ['an NBD address without port', { nbd: '127.0.0.1' }, /--nbd .*HOST:PORT.*or none/],
  ['a port above 65535', { http: '127.0.0.1:70000' }, /--http .*HOST:PORT/],
  ['an empty host', { http: ':80' }, /--http .*HOST:PORT/],
  ['NBD open to others', { nbd: '0.0.0.0:10809' }, /--insecure-nbd/],
  ['HTTP open to others', { http: '[::]:8452' }, /--insecure-http/],
  ['HTTP on a name', { http: 'example.org:8452' }, /--insecure-http/],
  ['a cache mode', { cache: 'fast' }, /--cache .*use writeback or none/],
  ['an I/O backend', { io: 'x' }, /--io .*use auto, uring or threads/],
  ['a short serial', { essSerial: '1369' }, /five letters or digits/],
  ['a rate of 0', { copyRate: '0' }, /MB\/s.*or unlimited/],
  ['a rate in words', { copyRate: 'fast' }, /MB\/s.*or unlimited/],
  ['a negative rate', { copyRate: '-5' }, /MB\/s.*or unlimited/],
  ['a capacity in words', { poolCapacity: 'big' }, /is not a size/],
  ['a capacity nobody has', { poolCapacity: '999999T' }, /8 PiB\.$/],
  ['a tiny capacity', { poolCapacity: '1M' }, /at least 64M/],
  ['a log level', { logLevel: 'loud' }, /use one of trace, debug/],
  ['no connections', { nbdConnections: '0' }, /--nbd-connections .*from 1 to 960/],
  ['more than there are', { nbdConnectionsPerExport: 961 }, /from 1 to 960/],
  ['a timeout in words', { nbdPeerTimeout: 'never' }, /--nbd-peer-timeout .*from 12 to 86400/],
  ['memory in words', { nbdMemory: 'much' }, /--nbd-memory .*a size up to 1T/],
  ['an empty data directory', { data: '' }, /--data .*empty/],
  [
    'a mirror in the pool directory',
    { data: '/d', metaMirror: '/d/pool/m' },
    /another disk, or none/,
  ],
  ['a mirror of too long a path', { metaMirror: `/${'x'.repeat(511)}` }, /511 bytes/],
  ['a socket path that is too long', { nbdUnix: `/${'x'.repeat(107)}` }, /107 bytes.*shorter/],
])('%s is refused', (_what, flags, message) => {
  expect(() => resolveConfig(flags, {})).toThrow(message);
  expect(() => resolveConfig(flags, {})).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error,
  );
});

test.each([
  ['an unknown key', 'htpp: 127.0.0.1:1', /unknown key 'htpp'.*Known ones: .*http/],
  ['camelCase', 'essSerial: "13698"', /unknown key 'essSerial'/],
  ['a list', '- a', /"key: value" lines/],
  ['no YAML', '{', /not YAML/],
  ['a switch in words', 'no-demo: sometimes', /no-demo: use true or false/],
  ['a list as value', 'http: [a]', /http: it must be one text or number/],
])('a file with %s is refused', (_what, file, message) => {
  const resolve = () => resolveConfig({ config: '/etc/x.yaml' }, {}, file);
  expect(resolve).toThrow(message);
  expect(resolve).toThrow(/^configuration file \/etc\/x.yaml refused: .*[^.]\.$/);
});

test('an empty file is fine', () => {
  expect(resolveConfig({}, {}, '# nothing\n')).toEqual(resolveConfig({}, {}));
});

test.each([
  ['1', true],
  ['true', true],
  ['yes', true],
  ['0', false],
  ['', false],
])('FLASHLUN_NO_DEMO=%j', (value, noDemo) => {
  expect(resolveConfig({}, { FLASHLUN_NO_DEMO: value }).demo).toBe(!noDemo);
});

test('a switch variable in words is refused', () => {
  expect(() => resolveConfig({}, { FLASHLUN_NO_DEMO: 'maybe' })).toThrow(/use 1 or 0/);
});

test('a configuration file that is not there is refused by name', () => {
  expect(() => readConfigFile({ config: '/nonexistent/x.yaml' }, {})).toThrow(
    /nonexistent\/x.yaml/,
  );
  expect(readConfigFile({}, {})).toBeUndefined();
});

test('TLS: flags, and the same from the environment and the file', () => {
  const expected = {
    mode: 'require',
    certificates: path.resolve('pki'),
    psk: undefined,
    rules: path.resolve('rules.yaml'),
    verifyPeer: true,
    transport: 'bridge',
  };
  const config = resolveConfig(
    {
      nbdTls: 'require',
      nbdTlsCertificates: 'pki',
      nbdTlsVerifyPeer: true,
      nbdTlsRules: 'rules.yaml',
      nbdTlsTransport: 'bridge',
    },
    {},
  );
  expect(config.nbdTls).toEqual(expected);
  const again = resolveConfig({}, {}, stringify(printableConfig(config)));
  expect(again.nbdTls).toEqual(expected);
  const env = {
    FLASHLUN_NBD_TLS: 'require',
    FLASHLUN_NBD_TLS_CERTIFICATES: 'pki',
    FLASHLUN_NBD_TLS_VERIFY_PEER: '1',
    FLASHLUN_NBD_TLS_RULES: 'rules.yaml',
    FLASHLUN_NBD_TLS_TRANSPORT: 'bridge',
  };
  expect(resolveConfig({}, env).nbdTls).toEqual(expected);
});

test('with TLS required NBD may be on any address, with TLS on it may not', () => {
  const flags = { nbd: '0.0.0.0:10809', nbdTlsPsk: 'keys.psk' };
  expect(resolveConfig({ ...flags, nbdTls: 'require' }, {}).nbd?.host).toBe('0.0.0.0');
  expect(() => resolveConfig({ ...flags, nbdTls: 'on' }, {})).toThrow(/--nbd-tls require/);
});

test.each<[ServeOptions, RegExp]>([
  [{ nbdTls: 'yes' }, /off, on or require/],
  [{ nbdTls: 'on' }, /one of --nbd-tls-certificates DIR and --nbd-tls-psk FILE/],
  [{ nbdTls: 'on', nbdTlsPsk: 'a', nbdTlsCertificates: 'b' }, /only one of/],
  [{ nbdTls: 'on', nbdTlsPsk: 'a', nbdTlsVerifyPeer: true }, /there are no certificates/],
  [{ nbdTls: 'on', nbdTlsPsk: 'a', nbdTlsTransport: 'x' }, /auto, native or bridge/],
  [{ nbdTlsPsk: 'a' }, /TLS is off/],
  [{ nbdTlsVerifyPeer: true }, /TLS is off/],
  [{ nbdTlsRules: 'a' }, /TLS is off/],
])('TLS: %j is refused', (flags, message) => {
  expect(() => resolveConfig(flags, {})).toThrow(message);
});
