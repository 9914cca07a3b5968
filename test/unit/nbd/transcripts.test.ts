import { describe, expect, test } from 'vitest';
import { greeting } from '../../../src/nbd/replies.js';
import { GREETING } from '../../helpers/nbd-wire.js';
import { cut, type Driven, drive, singly } from './drive.js';
import { hex, TRANSCRIPTS, type Transcript } from './transcripts.js';

function check(transcript: Transcript, driven: Driven): void {
  expect(driven.said).toBe(hex(transcript.server).toString('hex'));
  const client = hex(transcript.client);
  const requestBytes = transcript.requestBytes ?? 0;
  expect(driven.leftover).toBe(client.subarray(client.length - requestBytes).toString('hex'));
  if (transcript.volumeId === undefined) {
    expect(driven.outcome).toMatchObject({ kind: 'close', cause: 'abort' });
    return;
  }
  expect(driven.outcome).toMatchObject({
    kind: 'transmit',
    export: { volumeId: transcript.volumeId },
    replies: transcript.replies ?? 'simple',
    contexts: (transcript.contexts ?? []).map((kind) => ({ kind })),
  });
}

test('the greeting', () => {
  expect(greeting()).toEqual(GREETING);
});

describe.each(TRANSCRIPTS)('$name', (transcript) => {
  const client = hex(transcript.client);

  test('in one piece', () => {
    check(transcript, drive([client]));
  });

  test('split in two at every position', () => {
    for (let at = 0; at <= client.length; at += 1) check(transcript, drive(cut(client, [at])));
  });

  test('byte by byte', () => {
    check(transcript, drive(singly(client)));
  });

  test('cut short anywhere, it waits for more', () => {
    const complete = client.length - (transcript.requestBytes ?? 0);
    for (let length = 0; length < complete; length += 1) {
      const driven = drive([client.subarray(0, length)]);
      expect(driven.outcome).toBeUndefined();
      expect(hex(transcript.server).toString('hex').startsWith(driven.said)).toBe(true);
    }
  });
});
