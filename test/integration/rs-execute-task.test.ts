// rsExecuteTask against a real server: the white paper's Figure 11, and each exit code.
import { readFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { localHost } from '../../src/esscli/main.js';
import { Scope, scoped } from '../helpers/cleanup.js';
import { exec, type ExecResult } from '../helpers/exec.js';
import { ROOT, type Server, startServer } from '../helpers/server.js';

const COMMAND = join(ROOT, 'bin/rsExecuteTask');
const HOST = 'rich-w2k-os-1';
const TASK = 'VMWare_W2K_FC';

const scope = new Scope();
let server: Server;
let password: string;

beforeAll(async () => {
  server = await startServer(scope);
  password = (await readFile(join(server.data, 'admin-password'), 'utf8')).trim();
  for (const line of [
    `task create ${TASK} establish 1203:1303 --nocopy`,
    'task create End withdraw 1203:1303',
    'task create Other establish 1204:1304 --nocopy',
  ]) {
    expect(await server.flashlun(...line.split(' '))).toMatchObject({ code: 0 });
  }
});

afterAll(() => scope.close());

/** Runs with user, password and server of the running server, unless `line` says otherwise. */
function rsExecuteTask(line: string, more: Record<string, string> = {}): Promise<ExecResult> {
  const env = {
    RS_HOST: HOST,
    FLASHLUN_SERVER: server.addresses.http,
    FLASHLUN_PASSWORD: password,
    ...more,
  };
  return exec(COMMAND, line === '' ? [] : line.split(' '), { env });
}

async function relationships(): Promise<string[]> {
  return (await server.api.flashcopies()).map((copy) => copy.id);
}

/** Figure 11, scanning errors repaired; times, address and client id are those of the run. */
function figure11(address: string, id: number, tasks: readonly string[]): string[] {
  const mask = '7ffb00bf007f';
  const acknowledged = 'fffb00bf007f';
  const request = `102,3,${mask},${HOST},${address},false,false`;
  return [
    'rsWebTest: HeartBeat to the server was successful.',
    `<ts> rsRegister: Local host ${HOST} at address ${address}`,
    '<ts> rsRegister: CLI client going to register with server',
    `<ts> rsRegister: registerClient request string "${request}"`,
    `<ts> rsRegister: registerClient response string "102,513,${acknowledged},${id},0"`,
    '<ts> rsRegister: CLI client registered successfully',
    'rsExecuteTask: Got task manager reference',
    'rsAppletStatusConnection: Successfully connected to Applet Status Server',
    '<ts> rsRegister: CLI client going to register with status server',
    `<ts> rsRegister: connectToServerProt2 request string "101,3,${mask},${id}"`,
    `<ts> rsRegister: rsAppletStatusServer response string "101,516,${acknowledged},${id},0"`,
    '<ts> rsRegister: CLI client registered successfully',
    'rsStatusMessenger: Status Messenger started',
    'rsExecuteTask: *****Finding the tasks*****',
    ...tasks.map((task) => `rsExecuteTask: Task ${task} found by task manager`),
    'rsExecuteTask: *****Scheduling the tasks*****',
    ...tasks.map((task) => `rsExecuteTask: Task ${task} scheduled with copy services server`),
    'rsExecuteTask: *****Monitoring the tasks*****',
    'rsExecuteTask: Waiting on server...',
    ...tasks.map((task) => `rsExecuteTask: Task ${task} completed successfully`),
    'rsExecuteTask: Command successful',
  ];
}

function linesOf(result: ExecResult): string[] {
  expect(result.stdout).toMatch(/\n$/);
  const stamp = /^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d:(0|[1-9]\d{0,2}) /;
  return result.stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.replace(stamp, '<ts> '));
}

/** The client id that the transcript of a registered client shows. */
function idOf(result: ExecResult): number {
  return Number(/response string "102,513,fffb00bf007f,(\d+),0"/.exec(result.stdout)?.[1]);
}

describe('success', () => {
  test('the first client of an array gets Figure 11, line by line', async () => {
    const { address } = localHost({});
    const result = await rsExecuteTask(
      `/v /u admin /p ${password} /s ${server.addresses.http} ${TASK}`,
    );
    expect({ code: result.code, stderr: result.stderr }).toEqual({ code: 0, stderr: '' });
    expect(linesOf(result)).toEqual(figure11(address, 339454995, [TASK]));
    expect(await relationships()).toEqual(['1203:1303']);
  });

  test('several tasks, UNIX options; the next client has the next id', async () => {
    const { address } = localHost({});
    const result = await rsExecuteTask(`-v End Other -U admin`);
    expect({ code: result.code, stderr: result.stderr }).toEqual({ code: 0, stderr: '' });
    expect(linesOf(result)).toEqual(figure11(address, 339454996, ['End', 'Other']));
    expect(await relationships()).toEqual(['1204:1304']);
    await server.api.withdraw('1204:1304');
  });

  test('without /v only how it ended', async () => {
    expect(await rsExecuteTask('End')).toEqual({
      code: 0,
      stdout: 'rsExecuteTask: Task End completed successfully\nrsExecuteTask: Command successful\n',
      stderr: '',
    });
  });

  test('client ids go on after a restart of the server', async () => {
    await scoped(async (own) => {
      const first = await startServer(own);
      await first.flashlun('task', 'create', 'End', 'withdraw', '1203:1303');
      const secret = await readFile(join(first.data, 'admin-password'), 'utf8');
      const env = { FLASHLUN_PASSWORD: secret.trim() };
      const before = await rsExecuteTask('/v End', {
        ...env,
        FLASHLUN_SERVER: first.addresses.http,
      });
      await first.stop();
      const second = await startServer(own, { data: first.data });
      const after = await rsExecuteTask('/v End', {
        ...env,
        FLASHLUN_SERVER: second.addresses.http,
      });
      expect([idOf(before), idOf(after)]).toEqual([339454995, 339454996]);
    });
  });
});

describe('failure', () => {
  test.each(['', '/v', '/x Task', '/s', `/p ${TASK}`])('usage (%j): 1', async (line) => {
    const result = await rsExecuteTask(line);
    expect(result).toMatchObject({ code: 1, stdout: '' });
    expect(result.stderr).toMatch(/^rsExecuteTask: [^\n]+\n$/);
  });

  test('a host name that cannot be registered: 1', async () => {
    expect((await rsExecuteTask(TASK, { RS_HOST: 'a,b' })).code).toBe(1);
  });

  test('nothing listens: 2', async () => {
    const result = await rsExecuteTask(`/v /s 127.0.0.1:1 ${TASK}`);
    expect(result.code).toBe(2);
    expect(result.stdout).toBe(
      'rsWebTest: HeartBeat to the server failed.\nrsExecuteTask: Command failed\n',
    );
    expect(result.stderr).toMatch(/^rsExecuteTask: cannot connect to [^\n]+\n$/);
  });

  test('a wrong password: 3', async () => {
    const result = await rsExecuteTask(`/p wrong ${TASK}`);
    expect(result.code).toBe(3);
    expect(result.stdout).toBe(
      'rsExecuteTask: Logon refused by server\nrsExecuteTask: Command failed\n',
    );
    expect(result.stderr).toMatch(/wrong user or password/);
  });

  test('an unknown task: 4, and the known ones do not run', async () => {
    const before = await relationships();
    const result = await rsExecuteTask(`${TASK} Unknown`);
    expect(result.code).toBe(4);
    expect(result.stdout).toBe(
      'rsExecuteTask: Task Unknown not found by task manager\nrsExecuteTask: Command failed\n',
    );
    expect(await relationships()).toEqual(before);
  });

  test('a task that a rule refuses: 5, and the tasks after it do not run', async () => {
    await server.api.establish(['1205:1303'], true);
    const result = await rsExecuteTask(`${TASK} Other`);
    expect(result.code).toBe(5);
    expect(result.stdout).toBe(
      [
        `rsExecuteTask: Task ${TASK} failed`,
        'rsExecuteTask: Task Other not run',
        'rsExecuteTask: Command failed',
        '',
      ].join('\n'),
    );
    expect(result.stderr).toMatch(/^rsExecuteTask: 1203:1303 refused: [^\n]*1205:1303[^\n]*\n$/);
    expect(await relationships()).toEqual(['1205:1303']);
    await server.api.withdraw('1205:1303');
  });

  test('a server that breaks the connection while logging on: 2', async () => {
    // Answers the heartbeat and nothing else: what a server looks like that dies then.
    const sockets: Socket[] = [];
    const dying = createServer((socket) => {
      sockets.push(socket);
      socket.once('data', (data) => {
        if (data.toString().startsWith('GET /heartbeat')) {
          socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
        } else {
          socket.destroy();
        }
      });
    });
    await new Promise<void>((resolve) => dying.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = dying.address() as AddressInfo;
      const result = await rsExecuteTask(`/s 127.0.0.1:${port} ${TASK}`);
      expect(result.code).toBe(2);
      expect(result.stderr).toMatch(/closed before the answer/);
    } finally {
      sockets.forEach((socket) => socket.destroy());
      dying.close();
    }
  });
});
