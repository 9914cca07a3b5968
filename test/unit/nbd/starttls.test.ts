/** TLS in negotiation: modes, downgrade, what is told before TLS, and what survives STARTTLS. */
import { describe, expect, test } from 'vitest';
import type { NegotiatedTls } from '../../../src/nbd/starttls.js';
import type { TlsIdentity, TlsPeer } from '../../../src/nbd/tls-identity.js';
import { parseTlsRules, TlsRules } from '../../../src/nbd/tls-rules.js';
import {
  clientFlags,
  decodeReplies,
  go,
  info,
  OPT,
  option,
  type OptionReply,
  REP,
  u32,
} from '../../helpers/nbd-wire.js';
import { CATALOG, LUN_1203, LUN_1303 } from './catalog.js';
import { drive, type Driven } from './drive.js';

const TLS_REQUIRED = 0x80000005;
const SERIAL = LUN_1203.name;
const INSIDE = { noZeroes: true };

function tls(mode: 'on' | 'require', rules = '', identity?: TlsIdentity | null): NegotiatedTls {
  const peer: TlsPeer = {
    protocol: 'TLSv1.3',
    cipher: 'TLS_AES_128_GCM_SHA256',
    identity: identity ?? undefined,
  };
  return {
    mode,
    rules: rules === '' ? new TlsRules() : parseTlsRules(rules),
    ...(identity === undefined ? {} : { peer }),
  };
}

function x509(subject: string, ...names: string[]): TlsIdentity {
  return { kind: 'x509', subject, names, fingerprint: '' };
}

/** Negotiates with fixed newstyle; before TLS or inside it, as `setting` says. */
function negotiate(setting: NegotiatedTls | undefined, ...options: Uint8Array[]): Driven {
  const isInside = setting?.peer !== undefined;
  const pieces = isInside ? options : [clientFlags(), ...options];
  return drive(pieces, CATALOG, setting, isInside ? INSIDE : undefined);
}

function replies(driven: Driven): OptionReply[] {
  return decodeReplies(Buffer.from(driven.said, 'hex'));
}

function types(driven: Driven): number[] {
  return replies(driven).map(({ type }) => type);
}

function listed(driven: Driven): string[] {
  return replies(driven)
    .filter(({ type }) => type === REP.server)
    .map(({ data }) => data.subarray(4, 4 + data.readUInt32BE(0)).toString());
}

describe('STARTTLS', () => {
  test('is unsupported without TLS, and the client may go on in plain text', () => {
    const driven = negotiate(undefined, option(OPT.startTls), go(SERIAL));
    expect(types(driven)).toEqual([REP.unsupported, REP.info, REP.ack]);
    expect(driven.outcome?.kind).toBe('transmit');
  });

  test.each(['on', 'require'] as const)('is acknowledged with %s, and nothing after it', (mode) => {
    const driven = negotiate(tls(mode), option(OPT.startTls));
    expect(types(driven)).toEqual([REP.ack]);
    expect(driven.outcome).toEqual({ kind: 'starttls', inside: INSIDE });
  });

  test.each([undefined, tls('on'), tls('require'), tls('on', '', null)])(
    'with data is invalid and in sync',
    (setting) => {
      const driven = negotiate(
        setting,
        option(OPT.startTls, Buffer.from('x')),
        option(OPT.startTls, Buffer.alloc(100_000)),
        option(OPT.abort),
      );
      expect(types(driven)).toEqual([REP.invalid, REP.invalid, REP.ack]);
    },
  );

  test('a second time is invalid', () => {
    const driven = negotiate(tls('require', '', null), option(OPT.startTls), go(SERIAL));
    expect(types(driven)).toEqual([REP.invalid, REP.info, REP.ack]);
  });

  test('what came behind it is given back, for the caller to refuse', () => {
    const pieces = [Buffer.concat([clientFlags(), option(OPT.startTls), go(SERIAL)])];
    const driven = drive(pieces, CATALOG, tls('on'));
    expect(types(driven)).toEqual([REP.ack]);
    expect(driven.leftover).toBe(go(SERIAL).toString('hex'));
  });

  test('needs fixed newstyle', () => {
    const driven = drive([clientFlags(0), option(OPT.startTls)], CATALOG, tls('require'));
    expect(types(driven)).toEqual([REP.invalid]);
  });

  test('forgets what was agreed before', () => {
    const before = negotiate(tls('on'), option(OPT.structuredReply), option(OPT.startTls));
    expect(types(before)).toEqual([REP.ack, REP.ack]);
    expect(before.outcome).toEqual({ kind: 'starttls', inside: INSIDE });
    const after = negotiate(tls('on', '', null), go(SERIAL));
    expect(after.outcome).toMatchObject({ kind: 'transmit', replies: 'simple' });
    // And it can be agreed again.
    const again = negotiate(tls('on', '', null), option(OPT.structuredReply), go(SERIAL));
    expect(types(again)).toEqual([REP.ack, REP.info, REP.ack]);
    expect(again.outcome).toMatchObject({ kind: 'transmit', replies: 'structured' });
  });
});

describe('require, before TLS', () => {
  const NAME = Buffer.from(SERIAL);
  const OPTIONS: [string, Buffer][] = [
    ['LIST', option(OPT.list)],
    ['LIST with data', option(OPT.list, NAME)],
    ['PEEK_EXPORT', option(OPT.peekExport, NAME)],
    ['INFO', info(SERIAL, [0, 1, 2, 3])],
    ['INFO of nothing', info('nothing')],
    ['GO', go(SERIAL, [3])],
    ['malformed GO', option(OPT.go, u32(4096))],
    ['GO of 100 KB', option(OPT.go, Buffer.alloc(100_000))],
    ['STRUCTURED_REPLY', option(OPT.structuredReply)],
    ['LIST_META_CONTEXT', option(OPT.listMetaContext, Buffer.concat([u32(8), NAME, u32(0)]))],
    ['SET_META_CONTEXT', option(OPT.setMetaContext, Buffer.concat([u32(8), NAME, u32(0)]))],
    ['EXTENDED_HEADERS', option(OPT.extendedHeaders)],
    ['option 12', option(12, NAME)],
    ['option 0xffffffff', option(0xffffffff)],
  ];

  test.each(OPTIONS)('%s gets TLS_REQD, tells nothing and stays in sync', (_name, bytes) => {
    const driven = negotiate(tls('require'), bytes, bytes, option(OPT.abort));
    expect(types(driven)).toEqual([TLS_REQUIRED, TLS_REQUIRED, REP.ack]);
    expect(driven.said).not.toContain(NAME.toString('hex'));
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'abort' });
  });

  test('EXPORT_NAME ends the connection without a byte', () => {
    const driven = negotiate(tls('require'), option(OPT.exportName, NAME));
    expect(driven.said).toBe('');
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'refused' });
  });

  test('a client without fixed newstyle gets nothing, and no error it does not know', () => {
    const driven = drive(
      [clientFlags(0), option(OPT.list), option(OPT.exportName, NAME)],
      CATALOG,
      tls('require'),
    );
    expect(types(driven)).toEqual([REP.invalid]);
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'refused' });
  });

  test('inside TLS everything is as without', () => {
    const inside = negotiate(tls('require', '', null), option(OPT.list), option(12), go(SERIAL));
    const plain = negotiate(undefined, option(OPT.list), option(12), go(SERIAL));
    expect(inside).toEqual(plain);
    const old = negotiate(tls('require', '', null), option(OPT.exportName, NAME));
    expect(old.said).toHaveLength(2 * 10); // NO_ZEROES was agreed outside.
  });
});

describe('on: exports that rules reserve', () => {
  const RULES = "- {exports: ['1203'], clients: ['CN=alice,*', 'PSK:bob']}";
  const ALICE = x509('CN=alice,O=Lab');

  test('are hidden and need TLS, by every name they have', () => {
    expect(listed(negotiate(tls('on', RULES), option(OPT.list)))).toEqual([LUN_1303.name]);
    for (const name of [SERIAL, '1203']) {
      const driven = negotiate(tls('on', RULES), info(name, [1, 3]), go(name));
      expect(types(driven)).toEqual([TLS_REQUIRED, TLS_REQUIRED]);
    }
    const old = negotiate(tls('on', RULES), option(OPT.exportName, Buffer.from(SERIAL)));
    expect(old).toMatchObject({ said: '', outcome: { kind: 'close', cause: 'refused' } });
  });

  test('are not given away by an error about another name', () => {
    const driven = negotiate(tls('on', RULES), go('nothing'));
    expect(types(driven)).toEqual([REP.unknown]);
    expect(driven.said).not.toContain(Buffer.from(SERIAL).toString('hex'));
  });

  test('leave the others as they are, with and without TLS', () => {
    for (const setting of [tls('on', RULES), tls('on', RULES, null)]) {
      const driven = negotiate(setting, go(LUN_1303.name));
      expect(types(driven)).toEqual([REP.info, REP.ack]);
    }
  });

  test.each([ALICE, { kind: 'psk', identity: 'bob' } as const])('are for %j', (identity) => {
    const driven = negotiate(tls('on', RULES, identity), option(OPT.list), go(SERIAL));
    expect(listed(driven)).toEqual([SERIAL, LUN_1303.name]);
    expect(driven.outcome?.kind).toBe('transmit');
  });

  test.each([
    null,
    x509('CN=mallory,O=Lab', 'DNS:CN=alice,O=Lab'),
    x509('O=CN=alice\\,x'),
    { kind: 'psk', identity: 'alice' } as const,
    { kind: 'psk', identity: 'CN=alice,O=Lab' } as const,
  ])('are not for %j', (identity) => {
    const driven = negotiate(
      tls('on', RULES, identity),
      option(OPT.list),
      info('1203'),
      go('1203'),
    );
    expect(listed(driven)).toEqual([LUN_1303.name]);
    expect(types(driven).slice(-2)).toEqual([REP.policy, REP.policy]);
    const name = option(OPT.exportName, Buffer.from('1203'));
    expect(negotiate(tls('on', RULES, identity), name).outcome?.kind).toBe('close');
  });

  test('a rule without clients is for everybody inside TLS', () => {
    const rules = "- {exports: ['*']}";
    expect(types(negotiate(tls('on', rules), go(SERIAL)))).toEqual([TLS_REQUIRED]);
    expect(types(negotiate(tls('on', rules, null), go(SERIAL)))).toEqual([REP.info, REP.ack]);
    expect(listed(negotiate(tls('on', rules), option(OPT.list)))).toEqual([]);
  });

  test('the first rule that names an export decides', () => {
    const rules = "- {exports: ['13*'], tls: optional}\n- {exports: ['*']}";
    expect(types(negotiate(tls('on', rules), go('1303')))).toEqual([REP.info, REP.ack]);
    expect(types(negotiate(tls('on', rules), go('1203')))).toEqual([TLS_REQUIRED]);
  });
});

test('every split of the bytes up to STARTTLS gives the same', () => {
  const all = Buffer.concat([clientFlags(), option(OPT.list), info(SERIAL), option(OPT.startTls)]);
  const whole = drive([all], CATALOG, tls('require'));
  for (let at = 1; at < all.length; at += 1) {
    const split = drive([all.subarray(0, at), all.subarray(at)], CATALOG, tls('require'));
    expect(split.said).toBe(whole.said);
    expect(split.outcome).toEqual(whole.outcome);
  }
});
