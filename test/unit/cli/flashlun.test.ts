// `flashlun` without our server: usage errors, exit codes, servers that are not ours.
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { ERRORS } from '../../../src/base/errors.js';
import { run } from '../../../src/cli/main.js';

let server: Server | undefined;

afterEach(() => {
  server?.closeAllConnections();
  server?.close();
  server = undefined;
});

/** A server of somebody else's: it only has to answer. */
async function listen(handler: RequestListener): Promise<string> {
  const started = createServer(handler);
  server = started;
  await new Promise<void>((resolve) => started.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(started.address() as AddressInfo).port}`;
}

async function flashlun(line: string, env: NodeJS.ProcessEnv = {}) {
  let stdout = '';
  let stderr = '';
  const code = await run(line === '' ? [] : line.split(' '), {
    env,
    cwd: '/nonexistent',
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
  });
  return { code, stdout, stderr };
}

describe('usage', () => {
  test.each([
    ['volume lsit', /unknown command 'lsit'/],
    ['volume list --nope', /unknown option '--nope'/],
    ['volume create --lss 12', /required option '--size <SIZE>' not specified/],
    ['volume create --size 1G', /--lss 12 or --id 1203/],
    ['volume create --lss 12 --size 1GB', /'1GB' is not a size/],
    ['volume create --id 0203 --size 1G', /'0203' is not a volume id/],
    ['volume show', /missing required argument 'VOLUME'/],
    ['volume show 1203 1204', /too many arguments/],
    ['attach 1203 --format vmdk', /Allowed choices are qemu, libvirt/],
    ['flashcopy establish', /missing required argument 'PAIRS'/],
    ['flashcopy establish 1203', /'1203' is not a pair/],
    ['flashcopy establish 1203:1303:1304', /is not a pair/],
    ['flashcopy establish 1203:1303 --wait --nocopy', /would never end/],
    ['flashcopy establish 1203:1303 --timeout 5', /only used with --wait/],
    ['flashcopy establish 1203:1303 --wait --timeout soon', /not a number of seconds/],
    ['flashcopy show 1203', /'1203' is not a pair/],
    ['task create T delete 1203:1303', /Allowed choices are establish, withdraw/],
    ['task create T withdraw 1203:1303 --nocopy', /--nocopy does not belong to withdraw/],
    ['-s ftp://x -p y volume list', /is not a server address/],
  ])('%s', async (line, message) => {
    const { code, stdout, stderr } = await flashlun(line);
    expect(stderr).toMatch(/^flashlun: [^\n]+\.[^\n]*\n$/);
    expect(stderr).toMatch(message);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  test.each(['', 'volume', 'flashcopy'])('"flashlun %s" alone shows its help', async (line) => {
    const { code, stdout, stderr } = await flashlun(line);
    expect(stderr).toMatch(/^Usage: flashlun/);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  test('--help and --version go to stdout and are no error', async () => {
    const help = await flashlun('--help');
    expect(help).toMatchObject({ code: 0, stderr: '' });
    expect(help.stdout).toMatch(/Exit codes: 0 ok, 2 usage/);
    expect(await flashlun('--version')).toMatchObject({ code: 0, stderr: '' });
    expect((await flashlun('--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
    expect((await flashlun('flashcopy establish --help')).stdout).toMatch(/--server/);
  });
});

describe('exit codes', () => {
  test.each(Object.entries(ERRORS))('%s', async (code, entry) => {
    const url = await listen((_request, response) => {
      response.writeHead(entry.http, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ code, message: 'what happened.\nWhat to do.' }));
    });
    expect(await flashlun(`-s ${url} -p x volume list`)).toEqual({
      code: entry.exit,
      stdout: '',
      stderr: 'flashlun: what happened. What to do.\n',
    });
  });

  test('a code of a newer server is judged by its status', async () => {
    const url = await listen((_request, response) => {
      response.writeHead(401).end(JSON.stringify({ code: 'OTP_NEEDED', message: 'no token.' }));
    });
    expect((await flashlun(`-s ${url} -p x volume list`)).code).toBe(5);
  });

  test('nothing listens: 3', async () => {
    const url = await listen(() => undefined);
    server?.close();
    const { code, stderr } = await flashlun(`volume list -s ${url} -p x`);
    expect(stderr).toBe(
      `flashlun: cannot connect to ${url}: nothing listens there. ` +
        'Start the server (flashlun serve) or check the address.\n',
    );
    expect(code).toBe(3);
  });

  test('the connection breaks: 3', async () => {
    const url = await listen((request) => request.socket.destroy());
    const { code, stderr } = await flashlun(`volume list -s ${url} -p x`);
    expect(stderr).toMatch(/closed before the answer/);
    expect(code).toBe(3);
  });

  test.each([
    ['a page', 200, '<html>'],
    ['JSON of another kind', 200, '{"hello": 1}'],
    ['an error page', 404, 'not found'],
    ['a redirect', 302, ''],
  ])('a server that is not ours (%s): 4', async (_title, status, body) => {
    let passwords = 0;
    const url = await listen((_request, response) => {
      passwords += 1;
      response.writeHead(status, { location: '/elsewhere' }).end(body);
    });
    const { code, stderr } = await flashlun(`volume list -s ${url} -p x`);
    expect(stderr).toMatch(/does not answer like a flashlun server/);
    expect({ code, passwords }).toEqual({ code: 4, passwords: 1 });
  });
});
