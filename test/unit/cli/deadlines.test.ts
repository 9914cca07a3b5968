// A server that does not answer: who gives up when, and with which exit code.
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { ApiClient, isTimeout } from '../../../src/base/api-client.js';
import { FlashlunError } from '../../../src/base/errors.js';
import { EXECUTE_TASK } from '../../../src/esscli/commands/execute-task.js';
import { run } from '../../../src/esscli/main.js';

// Long enough for a loaded machine to answer what is answered, short enough to wait for in vain.
const DEADLINES = { requestMs: 1500, heartbeatMs: 1500, logOutMs: 1500, runMs: 1500 };

let server: Server | undefined;

afterEach(() => {
  server?.closeAllConnections();
  server?.close();
  server = undefined;
});

/** A server that answers the given requests and leaves all others waiting. */
async function listen(answers: Readonly<Record<string, string>>): Promise<string> {
  const started = createServer((request, response) => {
    const answer = answers[`${request.method} ${request.url}`];
    if (answer !== undefined) response.end(answer);
  });
  server = started;
  await new Promise<void>((resolve) => started.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(started.address() as AddressInfo).port}`;
}

const HEARTBEAT = { 'GET /heartbeat': 'ok' };
const LOGON = { ...HEARTBEAT, 'POST /v1/session': '{"token": "t"}' };

async function rsExecuteTask(answers: Readonly<Record<string, string>>) {
  let stdout = '';
  let stderr = '';
  const code = await run(EXECUTE_TASK, ['/s', await listen(answers), '/p', 'x', 'T'], {
    env: {},
    host: { name: 'host', address: '127.0.0.1' },
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text) },
    deadlines: DEADLINES,
  });
  expect(stderr).toMatch(/^rsExecuteTask: no answer from http:[^\n]+ within 1.5 s\.[^\n]*\n$/);
  return { code, last: stdout.trimEnd().split('\n').at(-1) };
}

test.each([
  ['the heartbeat: 2', {}, 2],
  ['the logon: 6', HEARTBEAT, 6],
  ['the registration: 6', LOGON, 6],
])('rsExecuteTask waits in vain for %s', async (_title, answers, code) => {
  expect(await rsExecuteTask(answers)).toEqual({ code, last: 'rsExecuteTask: Command failed' });
});

test('a request without answer is CANNOT_CONNECT, and known as a timeout', async () => {
  const api = new ApiClient(await listen({}), DEADLINES);
  const error: unknown = await api.json('GET', '/v1/volumes').catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(FlashlunError);
  expect(error).toMatchObject({ code: 'CANNOT_CONNECT' });
  expect(isTimeout(error)).toBe(true);
});

test('logging out of a dead server is no error and takes no longer than its deadline', async () => {
  const api = new ApiClient(await listen(LOGON), DEADLINES);
  await api.logIn('admin', 'x');
  await api.logOut();
});
