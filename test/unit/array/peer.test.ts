/** Whom the marks of a host mean. */
import { describe, expect, test } from 'vitest';
import {
  checkNetwork,
  checkTlsIdentity,
  checkUid,
  clientKey,
  type HostIdentities,
  hostMatcher,
  isLocal,
  type PeerIdentity,
  plainAddress,
} from '../../../src/array/peer.js';

const NONE: HostIdentities = { addresses: [], uids: [], tlsIdentities: [] };
const proved = (name?: string): Pick<PeerIdentity, 'tlsIdentities'> =>
  name === undefined ? {} : { tlsIdentities: ['DNS:other.lab', name] };
const tcp = (address: string, tlsIdentity?: string): PeerIdentity => {
  return { transport: 'tcp', address: plainAddress(address), ...proved(tlsIdentity) };
};
const unix = (uid?: number, tlsIdentity?: string): PeerIdentity => {
  return { transport: 'unix', uid, ...proved(tlsIdentity) };
};

const ADDRESS = { ...NONE, addresses: ['192.0.2.17', '198.51.100.0/24', '2001:db8::/32'] };
const USER = { ...NONE, uids: [107] };
const TLS = { ...NONE, tlsIdentities: ['CN=hyper1'] };
const ALL = { addresses: ADDRESS.addresses, uids: [107], tlsIdentities: ['CN=hyper1'] };

test.each<[string, HostIdentities, PeerIdentity, boolean]>([
  ['an address', ADDRESS, tcp('192.0.2.17'), true],
  ['the same on an IPv6 socket', ADDRESS, tcp('::ffff:192.0.2.17'), true],
  ['its neighbour', ADDRESS, tcp('192.0.2.18'), false],
  ['the first of a network', ADDRESS, tcp('198.51.100.0'), true],
  ['the last of a network', ADDRESS, tcp('198.51.100.255'), true],
  ['one behind it', ADDRESS, tcp('198.51.101.0'), false],
  ['an IPv6 network', ADDRESS, tcp('2001:db8:1::9'), true],
  ['another IPv6 network', ADDRESS, tcp('2001:db9::1'), false],
  ['an address and the unix socket', ADDRESS, unix(0), false],
  ['a client that has gone', ADDRESS, { transport: 'tcp' }, false],
  ['a user', USER, unix(107), true],
  ['root is another user', USER, unix(0), false],
  ['a user that nobody knows', USER, unix(), false],
  ['a user and TCP', USER, tcp('127.0.0.1'), false],
  ['a TLS name over TCP', TLS, tcp('203.0.113.1', 'CN=hyper1'), true],
  ['a TLS name over the unix socket', TLS, unix(0, 'CN=hyper1'), true],
  ['another TLS name', TLS, tcp('203.0.113.1', 'CN=hyper10'), false],
  ['no TLS', TLS, tcp('203.0.113.1'), false],
  ['address and name', ALL, tcp('192.0.2.17', 'CN=hyper1'), true],
  ['address without name', ALL, tcp('192.0.2.17'), false],
  ['name without address', ALL, tcp('192.0.2.18', 'CN=hyper1'), false],
  ['user and name', ALL, unix(107, 'CN=hyper1'), true],
  ['user without name', ALL, unix(107), false],
  ['nothing is nobody, over TCP', NONE, tcp('127.0.0.1'), false],
  ['nothing is nobody, over the unix socket', NONE, unix(0), false],
  ['everybody of IPv4', { ...NONE, addresses: ['0.0.0.0/0'] }, tcp('203.0.113.9'), true],
  ['IPv6 is not everybody of IPv4', { ...NONE, addresses: ['0.0.0.0/0'] }, tcp('::1'), false],
])('%s', (_what, host, peer, expected) => {
  expect(hostMatcher(host)(peer)).toBe(expected);
});

test.each(['127.0.0.1', '127.255.0.9', '::1', '::ffff:127.0.0.1'])('%s is local', (address) => {
  expect(isLocal(tcp(address))).toBe(true);
});

test.each(['192.0.2.1', '::', '::ffff:192.0.2.1', 'fe80::1%lo'])('%s is not local', (address) => {
  expect(isLocal(tcp(address))).toBe(false);
});

describe('limits count', () => {
  test.each<[string, PeerIdentity, string]>([
    ['an IPv4 address', tcp('192.0.2.1'), '192.0.2.1'],
    ['an IPv6 network', tcp('2001:db8::1'), '2001:db8:0:0::/64'],
    ['the same', tcp('2001:db8:0:0:1:2:3:4'), '2001:db8:0:0::/64'],
    ['the next network', tcp('2001:db8:0:1::'), '2001:db8:0:1::/64'],
    ['a link', tcp('fe80::1%eth0'), 'fe80:0:0:0::/64'],
    ['loopback', tcp('::1'), '::1'],
    ['a user', unix(7), 'uid 7'],
    ['nobody', unix(), 'uid unknown'],
  ])('%s', (_what, peer, key) => {
    expect(clientKey(peer)).toBe(key);
  });
});

test.each([
  ['192.0.2.1', '192.0.2.1'],
  [' 192.0.2.0/24 ', '192.0.2.0/24'],
  ['192.0.2.0/024', '192.0.2.0/24'],
  ['::ffff:192.0.2.1', '192.0.2.1'],
  ['2001:db8::/32', '2001:db8::/32'],
])('network %j is kept as %s', (text, kept) => {
  expect(checkNetwork(text)).toBe(kept);
});

test.each([
  '',
  'host1',
  '192.0.2',
  '192.0.2.1/33',
  '::1/129',
  '192.0.2.1/',
  '1.2.3.4/8/8',
  '::ffff:1.2.3.4/8',
])('network %j is refused', (text) => {
  expect(() => checkNetwork(text)).toThrow(/use an IP address or a network/);
});

test('users and TLS names', () => {
  expect(checkUid(0)).toBe(0);
  for (const uid of [-1, 1.5, 2 ** 32 - 1]) expect(() => checkUid(uid)).toThrow(/user id/);
  expect(checkTlsIdentity('CN=a, O=b')).toBe('CN=a, O=b');
  for (const name of ['', ' x', 'a\nb', 'x'.repeat(1025)]) {
    expect(() => checkTlsIdentity(name)).toThrow(/TLS identity/);
  }
});
