/**
 * Random input: whatever arrives and however it is split, negotiation never throws, says a bounded
 * amount, says the same for every split, and what it says can be decoded.
 *
 * FLASHLUN_TEST_SEED repeats a run.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LIMITS } from '../../../src/base/limits.js';
import { TRANSMISSION_FLAG } from '../../../src/nbd/protocol.js';
import {
  clientFlags,
  contextRequest,
  decodeReplies,
  exportRequest,
  OPT,
  OPTION_MAGIC,
  option,
  REP,
  u32,
} from '../../helpers/nbd-wire.js';
import { testSeed } from '../../helpers/random.js';
import { cut, type Driven, drive } from './drive.js';

const seed = testSeed();
console.log(`handshake-random: FLASHLUN_TEST_SEED=${seed}`);

const RUNS = { seed, numRuns: 2000 };
/** The two volumes of the catalog listed, infos of one, an error text: no option says more. */
const MOST_BYTES_PER_OPTION = 512;

const bytes = (maxLength: number) =>
  fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

const name = fc.oneof(
  fc.constantFrom('20313698', '1203', 'db', '1303', '', '1204').map((text) => Buffer.from(text)),
  bytes(40),
);

/** Data of INFO and GO: right, or with its lengths spoilt. */
const exportData = fc.oneof(
  fc
    .tuple(name, fc.array(fc.nat(6), { maxLength: 8 }))
    .map(([n, infos]) => exportRequest(n, infos)),
  fc.tuple(fc.nat(0xffffffff), bytes(30)).map(([n, rest]) => Buffer.concat([u32(n), rest])),
  bytes(20),
);

const query = fc.oneof(
  fc
    .constantFrom('base:', 'base:allocation', 'qemu:', 'qemu:dirty-bitmap:', 'x:y')
    .map(Buffer.from),
  bytes(20),
);

/** Data of the options about contexts: right, or with its count spoilt. */
const contextData = fc
  .tuple(name, fc.array(query, { maxLength: 6 }), fc.option(fc.nat(0xffffffff)))
  .map(([n, queries, count]) => contextRequest(n, queries, count ?? queries.length));

const anyOption = fc
  .tuple(
    fc.oneof(fc.nat(13), fc.nat(0xffffffff)),
    fc.oneof(exportData, contextData, bytes(300), fc.constant(Buffer.alloc(0))),
  )
  .map(([number, data]) => ({ number, data, bytes: option(number, data) }));

/** Almost a client: flags and options, some of them with a wrong magic or length. */
const almostClient = fc
  .tuple(
    fc.constantFrom(0, 1, 2, 3, 3, 3, 3, 4),
    fc.array(
      fc.oneof(
        { weight: 8, arbitrary: anyOption.map((it) => it.bytes) },
        { weight: 1, arbitrary: bytes(40) },
        {
          weight: 1,
          arbitrary: fc
            .tuple(fc.nat(11), fc.nat(0xffffffff), bytes(60))
            .map(([number, length, data]) => option(number, data, length)),
        },
      ),
      { maxLength: 12 },
    ),
    bytes(20),
  )
  .map(([flags, options, tail]) => Buffer.concat([clientFlags(flags), ...options, tail]));

function splitAt(input: Buffer, fractions: readonly number[]): Uint8Array[] {
  return cut(
    input,
    fractions.map((fraction) => Math.floor(fraction * input.length)).sort((a, b) => a - b),
  );
}

const fractions = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 20 });

function checkBounds(input: Buffer, driven: Driven): void {
  const options = Math.min(input.length / 16, LIMITS.nbdOptionsPerConnection);
  expect(driven.said.length / 2).toBeLessThanOrEqual(134 + options * MOST_BYTES_PER_OPTION);
  expect(driven.leftover.length / 2).toBeLessThanOrEqual(input.length);
}

test('pure noise', () => {
  fc.assert(
    fc.property(bytes(400), fractions, (input, where) => {
      const driven = drive(splitAt(input, where));
      checkBounds(input, driven);
      // Four bytes of flags are hardly ever right, and then 16 bytes of option header.
      if (input.length >= 20) expect(driven.outcome).toMatchObject({ kind: 'close' });
    }),
    RUNS,
  );
});

test('almost a client: bounded, and the same for every split', () => {
  fc.assert(
    fc.property(almostClient, fractions, (input, where) => {
      const whole = drive([input]);
      checkBounds(input, whole);
      const { longestStep: _, ...split } = drive(splitAt(input, where));
      expect(whole).toMatchObject(split);
    }),
    RUNS,
  );
});

test('every well-formed option gets its answer, in order', () => {
  fc.assert(
    fc.property(fc.array(anyOption, { maxLength: 20 }), (options) => {
      // GO, EXPORT_NAME and ABORT may end it; the rules for those are tested elsewhere.
      const stay = options.filter(
        ({ number }) => number !== OPT.go && number !== OPT.exportName && number !== OPT.abort,
      );
      const driven = drive([clientFlags(), ...stay.map((it) => it.bytes)]);
      expect(driven.outcome).toBeUndefined();
      const finals = decodeReplies(Buffer.from(driven.said, 'hex')).filter(
        ({ type }) => type === REP.ack || type >= REP.unsupported,
      );
      expect(finals.map((reply) => reply.option)).toEqual(stay.map(({ number }) => number));
    }),
    RUNS,
  );
});

test('noise behind GO reaches the transmission phase byte for byte', () => {
  fc.assert(
    fc.property(bytes(200), fractions, (behind, where) => {
      const input = Buffer.concat([clientFlags(), option(OPT.go, exportRequest('1203')), behind]);
      const driven = drive(splitAt(input, where));
      expect(driven.outcome?.kind).toBe('transmit');
      expect(driven.leftover).toBe(behind.toString('hex'));
    }),
    RUNS,
  );
});

test('the magic repeated without end is bounded by the number of options', () => {
  // Option number and length are the magic's own bytes, so the length is far above every limit.
  const driven = drive([clientFlags(), Buffer.alloc(4096, OPTION_MAGIC)]);
  expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'limit' });
});

test('transmission flags never hold what the server cannot do', () => {
  const known = Object.values(TRANSMISSION_FLAG).reduce((all, flag) => all | flag, 0);
  for (const exportName of ['1203', '1303']) {
    const driven = drive([clientFlags(), option(OPT.go, exportRequest(exportName))]);
    const flags = decodeReplies(Buffer.from(driven.said, 'hex'))[0]?.data.readUInt16BE(10) ?? 0;
    expect(flags & TRANSMISSION_FLAG.hasFlags).toBe(1);
    expect(flags & ~known).toBe(0);
  }
});
