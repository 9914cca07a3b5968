/** Routes of hosts, volume access and rate limits. */
import { expect, test } from 'vitest';
import { scoped } from '../../helpers/cleanup.js';
import { openTestApi } from './open-api.js';

test('hosts are made, shown, changed and deleted', () =>
  scoped(async (scope) => {
    const { logIn } = await openTestApi(scope);
    const admin = await logIn('admin');
    const host = { name: 'hyper1', addresses: ['192.0.2.17'] };
    expect(await admin('POST', '/v1/hosts', host)).toMatchObject({
      status: 201,
      body: { ...host, uids: [], tlsIdentities: [], volumes: [] },
    });
    expect((await admin('POST', '/v1/hosts', host)).status).toBe(409);
    const change = { uids: [107], description: 'rack 7' };
    expect(await admin('PATCH', '/v1/hosts/hyper1', change)).toMatchObject({
      status: 200,
      body: { ...host, ...change, disconnected: 0 },
    });
    expect((await admin('GET', '/v1/hosts')).body).toMatchObject({ hosts: [{ name: 'hyper1' }] });
    await admin('PUT', '/v1/volumes/1203/access/hyper1', { access: 'read-only' });
    expect(await admin('DELETE', '/v1/hosts/hyper1')).toMatchObject({
      status: 409,
      body: { code: 'HOST_IN_USE', details: { volumes: ['1203'] } },
    });
    await admin('DELETE', '/v1/volumes/1203/access/hyper1');
    expect((await admin('DELETE', '/v1/hosts/hyper1')).status).toBe(204);
    expect(await admin('GET', '/v1/hosts/hyper1')).toMatchObject({
      status: 404,
      body: { code: 'HOST_NOT_FOUND' },
    });
  }));

test('rsPrimeServer: a registered client tells the disks of its host; host focus', () =>
  scoped(async (scope) => {
    const { logIn, access } = await openTestApi(scope);
    const admin = await logIn('admin');
    const register = '102,3,7ffb00bf007f,RICH-W2K-OS-2,192.168.10.3,false,false';
    const reply = await admin('POST', '/v1/copyservices/registration', register, 'text/plain');
    const clientId = Number(reply.text.split(',')[3]);
    const disks = [{ name: 'Disk1', serial: '20313698' }];
    const prime = '/v1/copyservices/prime';
    for (const body of [
      { clientId: clientId + 1, disks },
      { clientId, disks: [{ name: 'Disk1', serial: 'x' }] },
      { clientId, disks: [{ name: 'Disk1', serial: '20313698', size: 1 }] },
      { clientId },
      { disks },
    ]) {
      expect(await admin('POST', prime, body)).toMatchObject({
        status: 400,
        body: { code: 'INVALID_ARGUMENT', message: expect.stringMatching(/^[^\n]+$/) as string },
      });
    }
    const monitor = await logIn('monitor');
    expect((await monitor('POST', prime, { clientId, disks })).status).toBe(403);
    expect(access.hosts.list()).toEqual([]);
    expect(await admin('POST', prime, { clientId, disks })).toMatchObject({
      status: 200,
      body: { name: 'RICH-W2K-OS-2', disks: [{ ...disks[0], volume: '1203' }], volumes: [] },
    });
    const focus = await admin('GET', '/v1/volumes?host=rich-w2k-os-2');
    expect(focus.body).toMatchObject({ volumes: [{ id: '1203' }] });
    expect((await admin('GET', '/v1/volumes?host=nobody')).status).toBe(404);
    expect((await admin('GET', '/v1/hosts/RICH-w2k-os-2')).body).toMatchObject({
      primedFrom: '192.168.10.3',
    });
  }));

test('access of a volume is shown, given, replaced and reset', () =>
  scoped(async (scope) => {
    const { logIn } = await openTestApi(scope);
    const admin = await logIn('admin');
    const url = '/v1/volumes/1203/access';
    for (const name of ['a', 'b']) await admin('POST', '/v1/hosts', { name, uids: [1] });
    expect((await admin('GET', url)).body).toEqual({
      volume: '1203',
      restricted: false,
      hosts: [],
    });
    const rules = [
      { host: 'a', access: 'read-only' },
      { host: 'b', access: 'read-write' },
    ];
    for (const { host, access } of rules) await admin('PUT', `${url}/${host}`, { access });
    const restricted = { volume: '1203', restricted: true };
    expect((await admin('GET', url)).body).toEqual({ ...restricted, hosts: rules });
    expect((await admin('PUT', url, { hosts: [rules[0]] })).body).toEqual({
      ...restricted,
      hosts: [rules[0]],
      disconnected: 0,
    });
    expect((await admin('PUT', url, { hosts: [] })).body).toMatchObject({ hosts: [] });
    expect((await admin('DELETE', url)).body).toMatchObject({ restricted: false });
    expect((await admin('DELETE', `${url}/a`)).body).toMatchObject({ code: 'NOT_FOUND' });
    expect((await admin('PUT', `${url}/a`, { access: 'all' })).status).toBe(400);
  }));

test('rate limits are shown and changed', () =>
  scoped(async (scope) => {
    const { logIn } = await openTestApi(scope);
    const admin = await logIn('admin');
    const url = '/v1/volumes/1203/limits';
    const set = { iops: 100, mbPerSecond: 1.5, burstSeconds: 2 };
    const expected = { volume: '1203', ...set, connectionIops: null, connectionMbPerSecond: null };
    expect(await admin('PATCH', url, set)).toMatchObject({ status: 200, body: expected });
    expect((await admin('GET', url)).body).toEqual(expected);
    expect((await admin('PATCH', url, { iops: null })).body).toMatchObject({ iops: null });
    expect(await admin('PATCH', url, { iops: 0 })).toMatchObject({
      status: 400,
      body: { code: 'INVALID_ARGUMENT' },
    });
  }));

test('a monitor looks but does not change', () =>
  scoped(async (scope) => {
    const { logIn, access } = await openTestApi(scope);
    const monitor = await logIn('monitor');
    expect((await monitor('GET', '/v1/hosts')).status).toBe(200);
    expect((await monitor('POST', '/v1/hosts', { name: 'a', uids: [1] })).status).toBe(403);
    expect((await monitor('DELETE', '/v1/volumes/1203/access')).status).toBe(403);
    expect((await monitor('PATCH', '/v1/volumes/1203/limits', { iops: 1 })).status).toBe(403);
    expect(access.hosts.list()).toEqual([]);
  }));
