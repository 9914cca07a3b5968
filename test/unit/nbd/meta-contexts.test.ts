/** EXTENDED_HEADERS and metadata contexts: rules of reference/nbd.md 1.3, 1.8, 1.9 and 1.12. */
import { describe, expect, test } from 'vitest';
import { LIMITS } from '../../../src/base/limits.js';
import {
  clientFlags,
  contextRequest,
  decodeReplies,
  exportRequest,
  go,
  info,
  OPT,
  option,
  REP,
  u32,
} from '../../helpers/nbd-wire.js';
import { CATALOG } from './catalog.js';
import { type Driven, drive } from './drive.js';

const LUN = '20313698';
const STRUCTURED = option(OPT.structuredReply);
const EXTENDED = option(OPT.extendedHeaders);
const ALL = ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:fc-1203-1303'];

const list = (...queries: string[]) => option(OPT.listMetaContext, contextRequest(LUN, queries));
const set = (...queries: string[]) => option(OPT.setMetaContext, contextRequest(LUN, queries));

function replies(driven: Driven) {
  return decodeReplies(Buffer.from(driven.said, 'hex'));
}

/** Types of the replies to one kind of option. */
function typesOf(driven: Driven, number: number): number[] {
  return replies(driven)
    .filter((reply) => reply.option === number)
    .map((reply) => reply.type);
}

/** Ids and names that were told, of one kind of option. */
function told(driven: Driven, number: number): [number, string][] {
  return replies(driven)
    .filter((reply) => reply.option === number && reply.type === REP.metaContext)
    .map(({ data }) => [data.readUInt32BE(0), data.subarray(4).toString()]);
}

/** Transmission flags that GO or INFO told. */
function flagsOf(driven: Driven): number {
  const found = replies(driven).findLast((reply) => reply.type === REP.info);
  return found?.data.readUInt16BE(10) ?? 0;
}

const DF = 1 << 7;
const PAYLOAD = 1 << 12;

describe('EXTENDED_HEADERS', () => {
  test.each([
    ['alone', [EXTENDED]],
    ['after structured replies', [STRUCTURED, EXTENDED]],
  ])('%s: ACK, and they hold', (_name, options) => {
    const driven = drive([clientFlags(), ...options, go(LUN)]);
    expect(driven.outcome).toMatchObject({ kind: 'transmit', replies: 'extended' });
    expect(typesOf(driven, OPT.extendedHeaders)).toEqual([REP.ack]);
  });

  test('twice is INVALID, STRUCTURED_REPLY then EXT_HEADER_REQD; neither changes a thing', () => {
    const driven = drive([clientFlags(), EXTENDED, EXTENDED, STRUCTURED, go(LUN)]);
    expect(typesOf(driven, OPT.extendedHeaders)).toEqual([REP.ack, REP.invalid]);
    expect(typesOf(driven, OPT.structuredReply)).toEqual([REP.extHeaderRequired]);
    expect(driven.outcome).toMatchObject({ replies: 'extended' });
  });

  test('EXPORT_NAME closes then: its client may only use GO', () => {
    const name = option(OPT.exportName, Buffer.from(LUN));
    const driven = drive([clientFlags(), EXTENDED, name]);
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'violation' });
  });
});

describe('transmission flags', () => {
  test.each<[string, Uint8Array[], number]>([
    ['nothing', [], 0],
    ['structured replies', [STRUCTURED], DF],
    ['extended headers', [EXTENDED], DF],
    ['structured replies and a context', [STRUCTURED, set(ALL[0]!)], DF],
    ['extended headers and a context', [EXTENDED, set(ALL[0]!)], DF | PAYLOAD],
    ['extended headers and no context after all', [EXTENDED, set(ALL[0]!), set()], DF],
  ])('with %s agreed, INFO and GO say the same', (_name, options, expected) => {
    const asInfo = drive([clientFlags(), ...options, info(LUN)]);
    const asGo = drive([clientFlags(), ...options, go(LUN)]);
    expect(flagsOf(asInfo) & (DF | PAYLOAD)).toBe(expected);
    expect(flagsOf(asGo)).toBe(flagsOf(asInfo));
  });
});

describe('LIST_META_CONTEXT', () => {
  test.each<[string, string[], string[]]>([
    ['no queries', [], ALL],
    ['base:', ['base:'], ALL.slice(0, 1)],
    ['qemu:', ['qemu:'], ALL.slice(1)],
    ['qemu:dirty-bitmap:', ['qemu:dirty-bitmap:'], ALL.slice(2)],
    ['one in full', ['qemu:allocation-depth'], ALL.slice(1, 2)],
    ['one twice and by a wildcard', ['base:', ALL[0]!, ALL[0]!], ALL.slice(0, 1)],
    ['unknown ones', ['x-other:', 'base:nope', 'qemu:dirty-bitmap:nope', 'nocolon', ''], []],
    ['a wildcard without its colon', ['qemu', 'qemu:dirty-bitmap'], []],
  ])('%s', (_name, queries, expected) => {
    for (const before of [[], [STRUCTURED], [EXTENDED]]) {
      const driven = drive([clientFlags(), ...before, list(...queries)]);
      expect(told(driven, OPT.listMetaContext)).toEqual(expected.map((name) => [0, name]));
      expect(typesOf(driven, OPT.listMetaContext).at(-1)).toBe(REP.ack);
    }
  });

  test('selects nothing', () => {
    const driven = drive([clientFlags(), STRUCTURED, list(), go(LUN)]);
    expect(driven.outcome).toMatchObject({ contexts: [] });
  });
});

describe('SET_META_CONTEXT', () => {
  test('selects what is named in full, each once, under ids of its own', () => {
    const queries = ['qemu:', ALL[2]!, 'x-other:y', ALL[0]!, ALL[2]!, 'base:'];
    const driven = drive([clientFlags(), STRUCTURED, set(...queries), go(LUN)]);
    expect(told(driven, OPT.setMetaContext)).toEqual([
      [1, ALL[0]],
      [2, ALL[2]],
    ]);
    expect(driven.outcome).toMatchObject({
      contexts: [
        { id: 1, kind: 'allocation', relationshipId: 0 },
        { id: 2, kind: 'changes', relationshipId: 5 },
      ],
    });
  });

  test('needs structured replies or extended headers', () => {
    const driven = drive([clientFlags(), set(ALL[0]!), STRUCTURED, go(LUN)]);
    expect(typesOf(driven, OPT.setMetaContext)).toEqual([REP.invalid]);
    expect(driven.outcome).toMatchObject({ contexts: [] });
  });

  test.each<[string, Uint8Array]>([
    ['no queries', set()],
    ['wildcards only', set('base:', 'qemu:')],
    ['bad data', option(OPT.setMetaContext, Buffer.alloc(3))],
    ['an unknown export', option(OPT.setMetaContext, contextRequest('nope', [ALL[0]!]))],
    ['too much data', option(OPT.setMetaContext, Buffer.alloc(LIMITS.nbdOptionDataBytes + 1))],
  ])('forgets what was selected before: %s', (_name, second) => {
    const driven = drive([clientFlags(), STRUCTURED, set(ALL[0]!), second, go(LUN)]);
    expect(driven.outcome).toMatchObject({ kind: 'transmit', contexts: [] });
  });

  test('holds for the export that it named only, also for EXPORT_NAME', () => {
    const begin = [clientFlags(), STRUCTURED, set(ALL[0]!)];
    const name = option(OPT.exportName, Buffer.from(LUN));
    expect(drive([...begin, go('1203')]).outcome).toMatchObject({ contexts: [] });
    expect(drive([...begin, name]).outcome).toMatchObject({ contexts: [{ id: 1 }] });
  });

  test('more than a connection may have: TOO_BIG, and none holds', () => {
    const bitmaps = Array.from({ length: 30 }, (_, index) => ({
      name: `fc-1203-${index}`,
      relationshipId: index,
    }));
    const queries = bitmaps.map(({ name }) => `qemu:dirty-bitmap:${name}`);
    const driven = drive([clientFlags(), STRUCTURED, set(...queries), go(LUN)], {
      ...CATALOG,
      bitmaps: () => bitmaps,
    });
    expect(typesOf(driven, OPT.setMetaContext)).toEqual([REP.tooBig]);
    expect(driven.outcome).toMatchObject({ contexts: [] });
  });
});

describe('malformed LIST_META_CONTEXT and SET_META_CONTEXT', () => {
  const name = Buffer.concat([u32(8), Buffer.from(LUN)]);
  test.each<[string, Buffer, number]>([
    ['no data', Buffer.alloc(0), REP.invalid],
    ['seven bytes', Buffer.alloc(7), REP.invalid],
    ['only a name length', u32(0xffffffff), REP.invalid],
    ['name longer than the option', Buffer.concat([u32(9), Buffer.from(LUN), u32(0)]), REP.invalid],
    ['2^32-1 queries, none there', contextRequest(LUN, [], 0xffffffff), REP.invalid],
    ['2^32-1 queries, one there', contextRequest(LUN, ['base:'], 0xffffffff), REP.invalid],
    [
      'a query of 2^32-1 bytes',
      Buffer.concat([name, u32(1), u32(0xffffffff), Buffer.from('base:')]),
      REP.invalid,
    ],
    ['fewer queries than there are', contextRequest(LUN, ['base:', 'qemu:'], 1), REP.invalid],
    ['a query of 4097 bytes', contextRequest(LUN, ['q'.repeat(4097)]), REP.invalid],
    ['a query with NUL', contextRequest(LUN, ['base:\0']), REP.invalid],
    ['a query that is not UTF-8', contextRequest(LUN, [Buffer.from([0xff])]), REP.invalid],
    ['a name with NUL', contextRequest('2031\x003698', []), REP.invalid],
    ['an unknown export', contextRequest('1204', []), REP.unknown],
    ['the default export', contextRequest('', []), REP.unknown],
    ['a megabyte', Buffer.alloc(LIMITS.nbdOptionDrainBytes), REP.tooBig],
  ])('%s is refused and in sync', (_name, data, type) => {
    for (const number of [OPT.listMetaContext, OPT.setMetaContext]) {
      const driven = drive([clientFlags(), STRUCTURED, option(number, data), go(LUN)]);
      expect(typesOf(driven, number)).toEqual([type]);
      expect(driven.outcome?.kind).toBe('transmit');
    }
  });

  test('as many queries as fit into an option are read', () => {
    const count = Math.floor((LIMITS.nbdOptionDataBytes - 16) / 4);
    const driven = drive([clientFlags(), list(...Array.from({ length: count }, () => ''))]);
    expect(typesOf(driven, OPT.listMetaContext)).toEqual([REP.ack]);
  });
});

describe('block sizes', () => {
  test.each([
    ['asked in GO, blocks of 4096', '1303', [3], 4096],
    ['not asked', '1303', [0, 1], 1],
    ['asked in GO, blocks of 512', '1203', [3], 1],
  ])('%s', (_name, name, infos, expected) => {
    expect(drive([clientFlags(), go(name, infos)]).outcome).toMatchObject({
      minBlockBytes: expected,
    });
  });

  test('asked in INFO only commits to nothing', () => {
    const asked = option(OPT.info, exportRequest('1303', [3]));
    expect(drive([clientFlags(), asked, go('1303')]).outcome).toMatchObject({ minBlockBytes: 1 });
  });
});
