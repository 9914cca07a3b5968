/** Rules H1 to H9 of reference/nbd.md, and the negotiation rows of its malformed-input matrix. */
import { describe, expect, test } from 'vitest';
import { LIMITS } from '../../../src/base/limits.js';
import { Handshake } from '../../../src/nbd/handshake.js';
import {
  clientFlags,
  decodeReplies,
  exportRequest,
  go,
  info,
  OPT,
  option,
  REP,
  u16,
  u32,
} from '../../helpers/nbd-wire.js';
import { CATALOG, EMPTY_CATALOG, fullCatalog } from './catalog.js';
import { type Driven, drive } from './drive.js';

/** Replies to the options after fixed newstyle was agreed, as [option, type] pairs. */
function answers(driven: Driven): [number, number][] {
  return decodeReplies(Buffer.from(driven.said, 'hex')).map((reply) => [reply.option, reply.type]);
}

/** The texts of all error replies, without their throw-away newline. */
function texts(driven: Driven): string[] {
  return decodeReplies(Buffer.from(driven.said, 'hex'))
    .filter((reply) => reply.type >= REP.unsupported)
    .map((reply) => reply.data.toString('utf8').replace(/\n$/, ''));
}

const GO = go('20313698');
const GO_ANSWER = [
  [OPT.go, REP.info],
  [OPT.go, REP.ack],
];

/** After whatever was sent, a GO must still be understood: nothing of the data was left unread. */
function expectInSync(bytes: Uint8Array, expected: [number, number][]): Driven {
  const driven = drive([clientFlags(), bytes, GO]);
  expect(answers(driven)).toEqual([...expected, ...GO_ANSWER]);
  expect(driven.outcome?.kind).toBe('transmit');
  return driven;
}

describe('client flags (H2)', () => {
  test.each([4, 7, 0x80000000, 0xffffffff, 0x100])('0x%s is unknown: close', (flags) => {
    const driven = drive([clientFlags(flags), GO]);
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'violation' });
    expect(driven.said).toBe('');
  });

  test.each([1, 3])('%d is fixed newstyle', (flags) => {
    expect(drive([clientFlags(flags), GO]).outcome?.kind).toBe('transmit');
  });
});

describe('without fixed newstyle (H3)', () => {
  test.each([0, 2])('flags %d: EXPORT_NAME is served', (flags) => {
    const driven = drive([clientFlags(flags), option(OPT.exportName, Buffer.from('1203'))]);
    expect(driven.outcome?.kind).toBe('transmit');
    expect(driven.said.length / 2).toBe(flags === 2 ? 10 : 134);
  });

  test.each([
    ['LIST', option(OPT.list)],
    ['GO', GO],
    ['STRUCTURED_REPLY with data', option(OPT.structuredReply, Buffer.from('IHAVEOPT'))],
    ['an unknown option with data', option(77, Buffer.alloc(1000, 0x49))],
  ])('%s is refused and its data consumed', (_name, bytes) => {
    const exportName = option(OPT.exportName, Buffer.from('1203'));
    const driven = drive([clientFlags(2), bytes, exportName]);
    expect(driven.outcome).toMatchObject({ kind: 'transmit', replies: 'simple' });
    const reply = decodeReplies(Buffer.from(driven.said, 'hex').subarray(0, -10));
    expect(reply).toMatchObject([{ type: REP.invalid }]);
  });
});

describe('EXPORT_NAME', () => {
  test.each([
    ['unknown', Buffer.from('1204'), 'refused', /no export '1204'.*serial/],
    ['the default', Buffer.alloc(0), 'refused', /no default export.*serial/],
    ['longer than 4096', Buffer.alloc(4097, 0x41), 'violation', /at most 4096/],
    ['longer than stored', Buffer.alloc(70_000, 0x41), 'violation', /too long/],
    ['with NUL', Buffer.from('12\x0003'), 'violation', /NUL/],
    ['not UTF-8', Buffer.from([0x31, 0xff]), 'violation', /UTF-8/],
  ])('%s: close without a reply', (_name, name, cause, reason) => {
    const driven = drive([clientFlags(), option(OPT.exportName, name)]);
    expect(driven.outcome).toMatchObject({
      kind: 'close',
      cause,
      reason: expect.stringMatching(reason),
    });
    expect(driven.said).toBe('');
  });

  test('NO_ZEROES decides about the padding, and only here (H4)', () => {
    const name = option(OPT.exportName, Buffer.from('1203'));
    expect(drive([clientFlags(3), name]).said).toHaveLength(2 * 10);
    expect(drive([clientFlags(1), name]).said).toHaveLength(2 * 134);
    expect(drive([clientFlags(1), GO]).said).toBe(drive([clientFlags(3), GO]).said);
  });

  test('comes after STRUCTURED_REPLY, which stays in force', () => {
    const name = option(OPT.exportName, Buffer.from('1203'));
    const driven = drive([clientFlags(), option(OPT.structuredReply), name]);
    expect(driven.outcome).toMatchObject({ kind: 'transmit', replies: 'structured' });
  });
});

describe('pipelined options (H5)', () => {
  test('are answered in order, and nothing behind GO is touched', () => {
    const many = [option(OPT.list), option(OPT.structuredReply), info('1203'), GO];
    const behind = Buffer.from('IHAVEOPT, but a request');
    const driven = drive([Buffer.concat([clientFlags(), ...many, behind])]);
    expect(driven.outcome).toMatchObject({ kind: 'transmit', replies: 'structured' });
    expect(driven.leftover).toBe(behind.toString('hex'));
  });
});

describe('repeated options (H6)', () => {
  test('a second STRUCTURED_REPLY is INVALID and the first stays', () => {
    const twice = Buffer.concat([option(OPT.structuredReply), option(OPT.structuredReply)]);
    const driven = expectInSync(twice, [
      [OPT.structuredReply, REP.ack],
      [OPT.structuredReply, REP.invalid],
    ]);
    expect(driven.outcome).toMatchObject({ replies: 'structured' });
  });

  test('INFO, then GO with the same request, says the same', () => {
    const request = exportRequest('db', [1, 2, 3]);
    const [asInfo, asGo] = [OPT.info, OPT.go].map((number) =>
      decodeReplies(Buffer.from(drive([clientFlags(), option(number, request)]).said, 'hex')),
    );
    expect(asInfo?.map(({ type, data }) => ({ type, data }))).toEqual(
      asGo?.map(({ type, data }) => ({ type, data })),
    );
    expect(asGo).toHaveLength(5);
  });
});

describe('unknown options (H7)', () => {
  test.each([
    ['PEEK_EXPORT', OPT.peekExport, 0],
    ['0', 0, 3],
    ['12', 12, 0],
    ['12 with data', 12, 5000],
    ['12 with the most data', 12, LIMITS.nbdOptionDrainBytes],
    ['2^32-1', 0xffffffff, 17],
  ])('%s is UNSUP and in sync', (_name, number, length) => {
    // Data that looks like options must not be taken for some.
    const data = Buffer.alloc(length, option(OPT.abort));
    const driven = expectInSync(option(number, data), [[number, REP.unsupported]]);
    expect(texts(driven)).toEqual([`option ${number} is not supported`]);
  });
});

describe('option magic (H8)', () => {
  test.each(['IHAVEOPU', 'HTTP/1.1', '\0\0\0\0\0\0\0\0'])('%j: close', (magic) => {
    const bad = Buffer.concat([Buffer.from(magic), u32(OPT.list), u32(0)]);
    const driven = drive([clientFlags(), bad]);
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'violation' });
    expect(driven.said).toBe('');
  });

  test('replies given before it still leave', () => {
    const driven = drive([clientFlags(), Buffer.concat([option(OPT.list), Buffer.alloc(16)])]);
    expect(driven.outcome?.kind).toBe('close');
    expect(answers(driven).at(-1)).toEqual([OPT.list, REP.ack]);
  });
});

describe('STARTTLS without TLS (T2)', () => {
  test('is UNSUP, the first and the second time, and the data behind is an option', () => {
    const twice = Buffer.concat([option(OPT.startTls), option(OPT.startTls)]);
    expectInSync(twice, [
      [OPT.startTls, REP.unsupported],
      [OPT.startTls, REP.unsupported],
    ]);
  });
});

describe('data where none belongs', () => {
  test.each([
    ['LIST', OPT.list],
    ['STARTTLS', OPT.startTls],
    ['STRUCTURED_REPLY', OPT.structuredReply],
    ['EXTENDED_HEADERS', OPT.extendedHeaders],
  ])('%s is INVALID and in sync', (name, number) => {
    const driven = expectInSync(option(number, Buffer.from('x'.repeat(17))), [
      [number, REP.invalid],
    ]);
    expect(texts(driven)[0]).toContain(name);
    expect(driven.outcome).toMatchObject({ replies: 'simple' });
  });

  test('ABORT ignores it', () => {
    const driven = drive([clientFlags(), option(OPT.abort, Buffer.alloc(999))]);
    expect(answers(driven)).toEqual([[OPT.abort, REP.ack]]);
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'abort' });
  });
});

describe('malformed INFO and GO', () => {
  const name = Buffer.from('20313698');
  test.each<[string, Buffer, RegExp]>([
    ['no data', Buffer.alloc(0), /too few/],
    ['five bytes', Buffer.alloc(5), /too few/],
    ['name longer than the option', Buffer.concat([u32(9), name, u16(0)]), /longer/],
    ['name length 2^32-1', Buffer.concat([u32(0xffffffff), name, u16(0)]), /longer/],
    ['fewer requests than said', Buffer.concat([u32(8), name, u16(2), u16(3)]), /number/],
    ['more requests than said', Buffer.concat([u32(8), name, u16(0), u16(3)]), /number/],
    ['half a request', Buffer.concat([u32(8), name, u16(1), Buffer.alloc(1)]), /number/],
    ['65535 requests, none there', Buffer.concat([u32(8), name, u16(65535)]), /number/],
    ['name of 4097 bytes', exportRequest(Buffer.alloc(4097, 0x41)), /at most 4096/],
    ['NUL in the name', exportRequest('2031\x003698'), /NUL/],
    ['name not UTF-8', exportRequest(Buffer.from([0xc0, 0x80])), /UTF-8/],
    ['surrogate in the name', exportRequest(Buffer.from([0xed, 0xa0, 0x80])), /UTF-8/],
  ])('%s is INVALID and in sync', (_name, data, text) => {
    for (const number of [OPT.info, OPT.go]) {
      const driven = expectInSync(option(number, data), [[number, REP.invalid]]);
      expect(texts(driven)[0]).toMatch(text);
    }
  });

  test('a name of 4096 bytes is only unknown', () => {
    const driven = expectInSync(go(Buffer.alloc(4096, 0x41)), [[OPT.go, REP.unknown]]);
    expect(texts(driven)[0]?.length).toBeLessThan(300);
  });

  test('a name in UTF-8 is found', () => {
    expect(drive([clientFlags(), go('Größe 💾')]).outcome).toMatchObject({ kind: 'transmit' });
  });

  test('a refused name is quoted as one printable line', () => {
    const driven = expectInSync(go('a\nb\x1b[2Jc\u2028d'), [[OPT.go, REP.unknown]]);
    expect(texts(driven)[0]).toContain("'a?b?[2Jc?d'");
  });
});

describe('information requests', () => {
  test('each is answered once, however often it is asked; unknown ones are ignored', () => {
    const infos = [3, 3, 3, 1, 1, 0, 0, 2, 9, 65535];
    const driven = drive([clientFlags(), info('1203', infos)]);
    const types = decodeReplies(Buffer.from(driven.said, 'hex'))
      .filter((reply) => reply.type === REP.info)
      .map((reply) => reply.data.readUInt16BE(0));
    expect(types).toEqual([0, 1, 2, 3]);
  });

  test('as many as fit into an option are read', () => {
    const count = (LIMITS.nbdOptionDataBytes - 14) / 2;
    const driven = drive([
      clientFlags(),
      go(
        '20313698',
        Array.from({ length: count }, () => 3),
      ),
    ]);
    expect(answers(driven)).toHaveLength(3);
    expect(driven.outcome?.kind).toBe('transmit');
  });

  test('65535 are too big and in sync', () => {
    const all = Array.from({ length: 65535 }, (_, index) => index);
    expectInSync(go('20313698', all), [[OPT.go, REP.tooBig]]);
  });
});

describe('length of option data', () => {
  test.each([OPT.info, OPT.go, OPT.listMetaContext])(
    'option %d above 64 KiB: TOO_BIG and in sync',
    (number) => {
      for (const length of [LIMITS.nbdOptionDataBytes + 1, LIMITS.nbdOptionDrainBytes]) {
        const driven = expectInSync(option(number, Buffer.alloc(length)), [[number, REP.tooBig]]);
        expect(texts(driven)[0]).toMatch(/at most 65536 bytes/);
      }
    },
  );

  test.each([OPT.exportName, OPT.abort, OPT.list, OPT.go, 12])(
    'option %d above 1 MiB: close at once, before any data',
    (number) => {
      for (const length of [LIMITS.nbdOptionDrainBytes + 1, 0xffffffff]) {
        const driven = drive([clientFlags(), option(number, Buffer.alloc(0), length)]);
        expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'limit' });
        expect(driven.said).toBe('');
      }
    },
  );
});

describe('how much one client may ask', () => {
  test('the last allowed option is answered, one more closes', () => {
    const most = LIMITS.nbdOptionsPerConnection;
    const many = Array.from({ length: most }, () => option(12));
    const driven = drive([clientFlags(), ...many]);
    expect(answers(driven)).toHaveLength(most);
    expect(driven.outcome).toBeUndefined();
    expect(drive([clientFlags(), ...many, option(12)]).outcome).toMatchObject({
      kind: 'close',
      cause: 'limit',
    });
  });

  test('a full array is listed once, and what is listed is bounded', () => {
    const lists = Array.from({ length: LIMITS.nbdOptionsPerConnection }, () => option(OPT.list));
    const driven = drive([clientFlags(), ...lists], fullCatalog(128));
    const got = answers(driven);
    expect(got.slice(0, 4096).every(([, type]) => type === REP.server)).toBe(true);
    expect(got[4096]).toEqual([OPT.list, REP.ack]);
    expect(got.at(-1)).toEqual([OPT.list, REP.tooBig]);
    expect(driven.said.length / 2).toBeLessThan(LIMITS.nbdListBytesPerConnection + 64 * 1024);
  });
});

describe('what costs the array time is asked for seldom', () => {
  test('unknown names never list it, and the last allowed one closes', () => {
    const asked = { lists: 0 };
    const list = () => {
      asked.lists += 1;
      return CATALOG.list();
    };
    const names = Array.from({ length: 100 }, () => go('nope'));
    const driven = drive([clientFlags(), ...names], { ...CATALOG, list });
    expect(answers(driven)).toHaveLength(LIMITS.nbdUnknownNamesPerConnection);
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'limit' });
    expect(asked.lists).toBe(0);
  });

  test('it is not listed again once the budget is spent', () => {
    const asked = { lists: 0 };
    const full = fullCatalog(128);
    const list = () => {
      asked.lists += 1;
      return full.list();
    };
    const lists = Array.from({ length: 100 }, () => option(OPT.list));
    expect(answers(drive([clientFlags(), ...lists], { ...full, list })).at(-1)?.[1]).toBe(
      REP.tooBig,
    );
    expect(asked.lists).toBeLessThanOrEqual(4);
  });
});

describe('an array without volumes', () => {
  test('lists nothing and says so', () => {
    const list = drive([clientFlags(), option(OPT.list)], EMPTY_CATALOG);
    expect(answers(list)).toEqual([[OPT.list, REP.ack]]);
    const refused = drive([clientFlags(), go('')], EMPTY_CATALOG);
    expect(texts(refused)).toEqual([
      'there is no default export, this array has no volumes for you',
    ]);
  });
});

test('every error text ends with a newline, which nbd-client overwrites', () => {
  const driven = drive([clientFlags(), go('nope'), option(12), option(OPT.startTls)]);
  const replies = decodeReplies(Buffer.from(driven.said, 'hex'));
  expect(replies).toHaveLength(3);
  for (const reply of replies) expect(reply.data.at(-1)).toBe(0x0a);
});

test('a finished negotiation takes no more bytes', () => {
  const machine = new Handshake(EMPTY_CATALOG);
  machine.consume(Buffer.concat([clientFlags(), option(OPT.abort)]));
  expect(() => machine.consume(Buffer.alloc(1))).toThrow(/finished/);
});
