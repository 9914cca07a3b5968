/** What one client sees of the array, and how many connections there may be. */
import { describe, expect, test } from 'vitest';
import type { PeerIdentity } from '../../../src/array/peer.js';
import type { Grant } from '../../../src/array/volume-access.js';
import {
  type AccessRules,
  ClientCatalog,
  ConnectionCounts,
  mayGoOn,
} from '../../../src/nbd/access.js';
import { clientFlags, decodeReplies, go, info, OPT, option, REP } from '../../helpers/nbd-wire.js';
import { CATALOG, EMPTY_CATALOG, LUN_1203, LUN_1303 } from './catalog.js';
import { drive } from './drive.js';

const CAPS = { handshakes: 4, total: 6, perClient: 3, perExport: 1 };
const PEER: PeerIdentity = { transport: 'tcp', address: '192.0.2.1' };
const LOCAL: PeerIdentity = { transport: 'unix', uid: 0 };
const EMPTY = { inAll: 0, of: () => 0 };

function rulesOf(grants: Record<number, Grant>): AccessRules {
  const grant = (volumeId: number): Grant => grants[volumeId] ?? 'none';
  return { grant, grants: () => grant };
}

function viewOf(rules: AccessRules | undefined, counts = new ConnectionCounts(CAPS)) {
  const denied: number[] = [];
  const onDenied = (volumeId: number) => void denied.push(volumeId);
  const catalog = new ClientCatalog({ catalog: CATALOG, rules, counts, peer: PEER, onDenied });
  return { catalog, counts, denied };
}

function replies(catalog: ClientCatalog, ...options: Buffer[]) {
  const { said, outcome } = drive([clientFlags(), ...options], catalog);
  return { replies: decodeReplies(Buffer.from(said, 'hex')), outcome };
}

describe('the catalog of a client', () => {
  test('has what it may attach, and not a word of the rest', () => {
    const { catalog, counts, denied } = viewOf(rulesOf({ 0x1203: 'read-write' }));
    expect(catalog.list()).toEqual([LUN_1203]);
    expect(catalog.resolve('1203')).toBe(LUN_1203);
    expect(catalog.resolve('1303')).toBeUndefined();
    expect(catalog.resolve('1999')).toBeUndefined();
    expect(denied).toEqual([0x1303]);
    expect(counts.refusals.access).toBe(1);
    const masked = replies(catalog, info('30313698'), go('1303'), go('nothing'));
    const texts = masked.replies.map(({ type, data }) => [type, data.toString()] as const);
    expect(texts.map(([type]) => type)).toEqual([REP.unknown, REP.unknown, REP.unknown]);
    // The same words, whether it is masked or not there at all.
    expect(texts[1]?.[1].replace('1303', 'X')).toBe(texts[2]?.[1].replace('nothing', 'X'));
  });

  test('gives an example that the client may attach', () => {
    expect(viewOf(rulesOf({ 0x1203: 'read-only' })).catalog.example()).toBe(LUN_1203.name);
    expect(viewOf(rulesOf({ 0x1303: 'read-only' })).catalog.example()).toBe(LUN_1303.name);
    expect(viewOf(rulesOf({})).catalog.example()).toBeUndefined();
    const { counts } = viewOf(undefined);
    const options = { rules: undefined, counts, peer: PEER, onDenied: () => undefined };
    expect(new ClientCatalog({ ...options, catalog: EMPTY_CATALOG }).example()).toBeUndefined();
  });

  test('shows read-only access in the flags, by GO and by EXPORT_NAME', () => {
    const { catalog } = viewOf(rulesOf({ 0x1203: 'read-only' }));
    const { outcome } = replies(catalog, go('1203'));
    expect(outcome).toMatchObject({ kind: 'transmit', export: { readOnly: true } });
    const { said } = drive([clientFlags(), option(OPT.exportName, Buffer.from('1203'))], catalog);
    const flags = Buffer.from(said, 'hex').readUInt16BE(8);
    expect(flags & 2).toBe(2);
  });

  test('follows changes, also of who the client has proved to be', () => {
    const peer: PeerIdentity = { ...PEER };
    const rules: AccessRules = {
      grant: (_id, { tlsIdentities }) => (tlsIdentities?.includes('CN=a') ? 'read-write' : 'none'),
      grants:
        ({ tlsIdentities }) =>
        () =>
          tlsIdentities?.includes('CN=a') ? 'read-write' : 'none',
    };
    const counts = new ConnectionCounts(CAPS);
    const catalog = new ClientCatalog({
      catalog: CATALOG,
      rules,
      counts,
      peer,
      onDenied: () => undefined,
    });
    expect(catalog.list()).toEqual([]);
    peer.tlsIdentities = ['CN=a'];
    expect(catalog.list()).toHaveLength(2);
    expect(catalog.resolve('1203')).toBe(LUN_1203);
  });

  test('a volume with all its connections is refused by policy, and says so', () => {
    const { catalog, counts } = viewOf(undefined);
    const place = counts.enter(LOCAL, EMPTY);
    if (typeof place === 'string') throw new Error(place);
    counts.attach(place, 0x1203);
    const full = replies(catalog, info('1203'), go('1203'), go('1303'));
    expect(full.replies.map(({ type }) => type).slice(0, 2)).toEqual([REP.policy, REP.policy]);
    expect(full.replies[1]?.data.toString()).toBe(
      'volume 1203 has as many connections as it may have\n',
    );
    expect(full.outcome).toMatchObject({ kind: 'transmit', export: { volumeId: 0x1303 } });
    const old = drive([clientFlags(), option(OPT.exportName, Buffer.from('1203'))], catalog);
    expect(old.outcome).toMatchObject({ kind: 'close', cause: 'refused' });
    expect(counts.refusals.export).toBe(1); // one client
    counts.leave(place);
    expect(replies(catalog, go('1203')).outcome).toMatchObject({ kind: 'transmit' });
  });
});

describe('places', () => {
  const enter = (counts: ConnectionCounts, peer = PEER) => counts.enter(peer, EMPTY);

  test('of one client, and in all, come back when they are given back', () => {
    const counts = new ConnectionCounts(CAPS);
    const mine = [enter(counts), enter(counts), enter(counts)];
    expect(enter(counts)).toBe('client');
    expect([enter(counts, LOCAL), enter(counts, LOCAL), enter(counts, LOCAL)]).not.toContain(
      'total',
    );
    expect(enter(counts, { ...PEER, address: '192.0.2.2' })).toBe('total');
    expect(counts.total).toBe(6);
    for (const place of mine) if (typeof place !== 'string') counts.leave(place);
    expect(counts.total).toBe(3);
    expect(typeof enter(counts)).toBe('object');
  });

  test('for negotiation: another machine has at most half of them', () => {
    const counts = new ConnectionCounts(CAPS);
    const two = { inAll: 2, of: () => 2 };
    expect(counts.enter(PEER, two)).toBe('handshakes');
    expect(typeof counts.enter(LOCAL, two)).toBe('object');
    expect(counts.enter(LOCAL, { inAll: 4, of: () => 4 })).toBe('handshakes');
  });
});

test.each<[Grant, boolean, boolean]>([
  ['read-write', false, true],
  ['read-write', true, true],
  ['read-only', true, true],
  ['read-only', false, false],
  ['none', true, false],
  ['none', false, false],
])('with %s a connection (read-only: %s) may go on: %s', (grant, readOnly, expected) => {
  expect(mayGoOn(grant, readOnly)).toBe(expected);
});
