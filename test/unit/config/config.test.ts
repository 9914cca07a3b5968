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
    http: { host: '127.0.0.1', port: 8452 },
    cache: 'writeback',
    io: 'auto',
    essSerial: undefined,
    demo: true,
    logLevel: undefined,
    copyBytesPerSecond: undefined,
    poolCapacityBytes: undefined,
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
      insecureNbd: true,
    },
    {},
  );
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
  ['an empty data directory', { data: '' }, /--data .*empty/],
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
