/** The HTTP API over real sockets: what never becomes a request. */
import { describe, expect, test } from 'vitest';
import { LIMITS } from '../../../src/base/limits.js';
import { type Scope, scoped } from '../../helpers/cleanup.js';
import { RawSocket } from '../../helpers/raw-socket.js';
import { openTestApi } from './open-api.js';

async function openSockets(scope: Scope) {
  const { api } = await openTestApi(scope);
  const address = await api.listen('127.0.0.1', 0);
  return async () => {
    const client = await RawSocket.open(address);
    scope.defer('close the client', () => client.close());
    return client;
  };
}

describe('what cannot be read as a request', () => {
  test.each([
    ['junk', 'IHAVEOPT\r\n\r\n', 400, 'it is not HTTP'],
    ['headers too large', `GET / HTTP/1.1\r\nx: ${'x'.repeat(65_536)}\r\n\r\n`, 431, 'too large'],
  ])('%s is answered like every error', (_what, sent, status, text) =>
    scoped(async (scope) => {
      const connect = await openSockets(scope);
      const client = await connect();
      client.send(Buffer.from(sent));
      const answer = (await client.receiveUntilClosed()).toString();
      expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      expect(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))).toEqual({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining(text) as string,
      });
    }),
  );

  test('a client that says nothing is gone soon', () =>
    scoped(async (scope) => {
      const connect = await openSockets(scope);
      const client = await connect();
      const deadlineMs = LIMITS.httpHeadersMs + 2 * LIMITS.httpCheckMs;
      expect((await client.receiveUntilClosed(deadlineMs)).toString()).toContain(' 408 ');
    }));
});
