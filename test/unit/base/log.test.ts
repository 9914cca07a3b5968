import { expect, test } from 'vitest';
import { createLogger } from '../../../src/base/log.js';

function collect() {
  const lines: string[] = [];
  return { lines, stream: { write: (line: string) => void lines.push(line) } };
}

test('a line is JSON with level name, time and message', () => {
  const { lines, stream } = collect();
  createLogger({ stream }).warn({ volume: '1203' }, 'hello');
  const line: unknown = JSON.parse(lines[0] ?? '');
  expect(line).toMatchObject({ level: 'warn', volume: '1203', msg: 'hello' });
  expect(line).toHaveProperty('time', expect.stringMatching(/^\d{4}-\d\d-\d\dT/));
});

test('the level decides what is written', () => {
  const { lines, stream } = collect();
  createLogger({ stream }).debug('no');
  createLogger({ level: 'debug', stream }).debug('yes');
  createLogger({ level: 'silent', stream }).fatal('no');
  expect(lines).toHaveLength(1);
});

test('secrets do not reach a line', () => {
  const { lines, stream } = collect();
  const log = createLogger({ stream });
  log.info({ password: 's3cret', body: { token: 's3cret' }, headers: { authorization: 's3cret' } });
  log.child({ part: 'api' }).info({ password: 's3cret' });
  expect(lines).toHaveLength(2);
  expect(lines.join('')).not.toContain('s3cret');
});
