/** Volume access and rate limits over the real engine and database. */
import { describe, expect, test } from 'vitest';
import { Hosts } from '../../../src/array/hosts.js';
import type { PeerIdentity } from '../../../src/array/peer.js';
import { VolumeAccess } from '../../../src/array/volume-access.js';
import { VolumeRates } from '../../../src/array/volume-rates.js';
import { AccessRepository, HostRepository, RateRepository } from '../../../src/metadata/hosts.js';
import { type Scope, scoped } from '../../helpers/cleanup.js';
import { openTestDatabase, QUIET } from '../metadata/open.js';
import { openTestArray } from './pool.js';

const LOCAL: PeerIdentity = { transport: 'tcp', address: '127.0.0.1' };
const ROOT: PeerIdentity = { transport: 'unix', uid: 0 };
const HYPER1: PeerIdentity = { transport: 'tcp', address: '192.0.2.17' };
const OTHER: PeerIdentity = { transport: 'tcp', address: '192.0.2.18' };

/** Volumes 1203 and 1204; hosts hyper1 and its network. `reopen` reads the database again. */
async function open(scope: Scope) {
  const base = await openTestArray(scope);
  for (const id of ['1203', '1204']) await base.array.create({ id, sizeBytes: 65_536 });
  const db = await openTestDatabase(scope);
  const reopen = () => {
    const common = { array: base.array, changes: base.changes, log: QUIET };
    const hosts = new Hosts(new HostRepository(db), QUIET, () => 0);
    return {
      access: new VolumeAccess({ ...common, hosts, records: new AccessRepository(db) }),
      rates: new VolumeRates({
        ...common,
        engine: base.engine,
        records: new RateRepository(db),
      }),
    };
  };
  const services = reopen();
  services.access.hosts.create('hyper1', { addresses: ['192.0.2.17'] }, 'admin');
  services.access.hosts.create('network', { addresses: ['192.0.2.0/24'] }, 'admin');
  return { ...base, ...services, reopen };
}

function all(access: VolumeAccess, volumeId = 0x1203) {
  return [LOCAL, ROOT, HYPER1, OTHER].map((peer) => access.grant(volumeId, peer));
}

describe('volume access', () => {
  test('by default this machine, and nobody else', () =>
    scoped(async (scope) => {
      const { access } = await open(scope);
      expect(all(access)).toEqual(['read-write', 'read-write', 'none', 'none']);
      expect(access.show('1203')).toEqual({ volume: '1203', restricted: false, hosts: [] });
    }));

  test('with a rule only rules count, also for this machine, and for that volume alone', () =>
    scoped(async (scope) => {
      const { access, reopen } = await open(scope);
      await access.allow('20313698', 'hyper1', false, 'admin');
      await access.allow('1203', 'network', true, 'admin');
      const expected = ['none', 'none', 'read-write', 'read-only'];
      expect(all(access)).toEqual(expected);
      expect(all(access, 0x1204)).toEqual(['read-write', 'read-write', 'none', 'none']);
      expect(all(reopen().access)).toEqual(expected);
      expect(access.host('network').volumes).toEqual([{ volume: '1203', access: 'read-only' }]);
      await access.allow('1203', 'hyper1', true, 'admin');
      expect(access.grant(0x1203, HYPER1)).toBe('read-only');
    }));

  test('taking the last host away closes the volume; only reset opens it', () =>
    scoped(async (scope) => {
      const { access, reopen } = await open(scope);
      await access.allow('1203', 'hyper1', false, 'admin');
      expect(await access.deny('1203', 'hyper1', 'admin')).toEqual({
        volume: '1203',
        restricted: true,
        hosts: [],
        disconnected: 0,
      });
      const nobody = ['none', 'none', 'none', 'none'];
      expect(all(access)).toEqual(nobody);
      expect(all(reopen().access)).toEqual(nobody);
      await access.reset('1203', 'admin');
      expect(all(reopen().access)).toEqual(['read-write', 'read-write', 'none', 'none']);
      await access.replace('1203', [], 'admin');
      expect(all(access)).toEqual(nobody);
    }));

  test('what is not there is refused and changes nothing', () =>
    scoped(async (scope) => {
      const { access } = await open(scope);
      const code = (name: string) => expect.objectContaining({ code: name }) as Error;
      await expect(access.allow('1203', 'nobody', false, 'x')).rejects.toThrow(
        code('HOST_NOT_FOUND'),
      );
      await expect(access.allow('1999', 'hyper1', false, 'x')).rejects.toThrow(
        code('VOLUME_NOT_FOUND'),
      );
      await expect(access.deny('1203', 'hyper1', 'x')).rejects.toThrow(/open to this machine/);
      await expect(access.deny('1203', 'nobody', 'x')).rejects.toThrow(code('HOST_NOT_FOUND'));
      const rules = [{ host: 'nobody', readOnly: false }];
      await expect(access.replace('1203', rules, 'x')).rejects.toThrow(code('HOST_NOT_FOUND'));
      expect(access.show('1203').restricted).toBe(false);
    }));

  test('a deleted volume forgets its rules; one with its id later has the default', () =>
    scoped(async (scope) => {
      const { access, array, rates, reopen } = await open(scope);
      await access.allow('1203', 'hyper1', false, 'admin');
      await rates.change('1203', { iops: 5 }, 'admin');
      await array.delete('1203');
      expect(access.host('hyper1').volumes).toEqual([]);
      await array.create({ id: '1203', sizeBytes: 65_536 });
      expect(all(access)).toEqual(['read-write', 'read-write', 'none', 'none']);
      expect(reopen().access.show('1203').restricted).toBe(false);
      expect(rates.show('1203').iops).toBeNull();
    }));

  test('rules of a volume that a killed server had deleted already go at the start', () =>
    scoped(async (scope) => {
      const { access, array, engine, rates, reopen } = await open(scope);
      await access.allow('1204', 'hyper1', false, 'admin');
      await rates.change('1204', { iops: 5 }, 'admin');
      await engine.deleteVolume(0x1204); // behind the array's back
      expect(reopen().access.host('hyper1').volumes).toEqual([]);
      await engine.createVolume(0x1204, 65_536, '');
      const again = reopen();
      expect(again.access.show('1204').restricted).toBe(false);
      expect(again.rates.show('1204').iops).toBeNull();
      expect(array.get('1204').id).toBe('1204');
    }));

  test('whoever listens is told of each change, and what it ended is answered', () =>
    scoped(async (scope) => {
      const { access } = await open(scope);
      let told = 0;
      access.onChanged(() => {
        told += 1;
        return 3;
      });
      expect(await access.allow('1203', 'hyper1', false, 'a')).toMatchObject({ disconnected: 3 });
      expect(access.updateHost('hyper1', { uids: [7] }, 'a')).toMatchObject({ disconnected: 3 });
      await access.deny('1203', 'hyper1', 'a');
      await access.reset('1203', 'a');
      expect(told).toBe(4);
    }));
});

describe('hosts', () => {
  test('are kept, changed field by field, and deleted', () =>
    scoped(async (scope) => {
      const { access, reopen } = await open(scope);
      const change = { uids: [0], tlsIdentities: ['CN=x'], description: 'rack 7' };
      access.updateHost('hyper1', change, 'admin');
      const expected = { name: 'hyper1', addresses: ['192.0.2.17'], ...change };
      expect(access.hosts.get('hyper1')).toMatchObject(expected);
      expect(reopen().access.hosts.get('hyper1')).toMatchObject(expected);
      access.deleteHost('hyper1', 'admin');
      expect(
        reopen()
          .access.hosts.list()
          .map(({ name }) => name),
      ).toEqual(['network']);
    }));

  test('one with access is not deleted, and the message says what to do', () =>
    scoped(async (scope) => {
      const { access } = await open(scope);
      await access.allow('1203', 'hyper1', false, 'admin');
      expect(() => access.deleteHost('hyper1', 'admin')).toThrow(
        /has access to 1203\. .*volume deny 1203 --host hyper1/,
      );
      expect(access.grant(0x1203, HYPER1)).toBe('read-write');
    }));

  test.each<[string, string, object, RegExp]>([
    ['a name that is taken', 'hyper1', { uids: [1] }, /there is host hyper1/],
    ['a name that differs in case only', 'HYPER1', { uids: [1] }, /there is host hyper1/],
    ['an empty name', '', { uids: [1] }, /host name/],
    ['a name with a slash', 'a/b', { uids: [1] }, /host name/],
    ['no mark', 'a', {}, /nobody could be it/],
    ['a bad address', 'a', { addresses: ['x'] }, /IP address/],
    ['too many', 'a', { uids: Array.from({ length: 65 }, (_, i) => i) }, /1 to 64/],
    ['a description of two lines', 'a', { uids: [1], description: 'a\nb' }, /one line/],
  ])('%s is refused', (_what, name, change, message) =>
    scoped(async (scope) => {
      const { access } = await open(scope);
      expect(() => access.hosts.create(name, change, 'admin')).toThrow(message);
      expect(access.hosts.list()).toHaveLength(2);
    }),
  );

  test('names keep their spelling and are compared without case', () =>
    scoped(async (scope) => {
      const { access, reopen } = await open(scope);
      await access.allow('1203', 'HYPER1', false, 'admin');
      expect(access.show('1203').hosts).toEqual([{ host: 'hyper1', access: 'read-write' }]);
      expect(access.host('Hyper1')).toMatchObject({
        name: 'hyper1',
        volumes: [{ volume: '1203', access: 'read-write' }],
      });
      await access.replace('1203', [{ host: 'NETWORK', readOnly: true }], 'admin');
      expect(reopen().access.show('1203').hosts).toEqual([
        { host: 'network', access: 'read-only' },
      ]);
      await access.deny('1203', 'NetWork', 'admin');
      access.deleteHost('HYPER1', 'admin');
      expect(
        reopen()
          .access.hosts.list()
          .map(({ name }) => name),
      ).toEqual(['network']);
    }));

  test('a disk map is kept, replaced, sorted as people count, and lets nobody attach', () =>
    scoped(async (scope) => {
      const { access, reopen } = await open(scope);
      const address = '192.168.10.3';
      const disk = (name: string, serial: string) => ({ name, serial });
      const disks = [disk('Disk10', '20413698'), disk('Disk2', '203fca01'), disk('D', 'fff13698')];
      access.hosts.prime('RICH-W2K-OS-2', { disks, address }, 'admin');
      await access.allow('1203', 'rich-w2k-os-2', false, 'admin');
      const before = ['none', 'none', 'none', 'none'];
      expect(all(access)).toEqual(before);
      const mapped = reopen().access.host('rich-w2k-os-2');
      expect(mapped).toMatchObject({ name: 'RICH-W2K-OS-2', primedFrom: address, addresses: [] });
      expect(mapped.disks).toEqual([
        { ...disk('D', 'FFF13698'), volume: null },
        { ...disk('Disk2', '203FCA01'), volume: null },
        { ...disk('Disk10', '20413698'), volume: '1204' },
      ]);
      expect([...access.focus('rich-W2K-os-2')]).toEqual(['1204']);
      access.hosts.prime('rich-w2k-os-2', { disks: [disk('E', '20313698')], address }, 'admin');
      expect(access.hostList().map(({ name, disks: kept }) => [name, kept.length])).toEqual([
        ['hyper1', 0],
        ['network', 0],
        ['RICH-W2K-OS-2', 1],
      ]);
      // Marks and disks of one host do not know of each other.
      access.updateHost('RICH-W2K-OS-2', { addresses: ['192.0.2.5'] }, 'admin');
      access.updateHost('RICH-W2K-OS-2', { addresses: [] }, 'admin');
      expect([...reopen().access.focus('RICH-W2K-OS-2')]).toEqual(['1203']);
    }));

  test.each<[string, string, object[], RegExp]>([
    ['a name that is none', 'a b', [], /host name/],
    ['a disk without a name', 'h', [{ name: '', serial: '20313698' }], /name of a disk/],
    ['a disk name with a blank', 'h', [{ name: 'a b', serial: '20313698' }], /name of a disk/],
    ['a serial that is none', 'h', [{ name: 'a', serial: '2031369' }], /serial of an ESS volume/],
    [
      'a disk twice',
      'h',
      [
        { name: 'a', serial: '20313698' },
        { name: 'a', serial: '20413698' },
      ],
      /stands in it twice/,
    ],
    [
      'too many disks',
      'h',
      Array.from({ length: 1025 }, (_, i) => ({ name: `d${i}`, serial: '20313698' })),
      /more than 1024/,
    ],
  ])('a disk map with %s is refused', (_what, name, disks, message) =>
    scoped(async (scope) => {
      const { access } = await open(scope);
      const told = { disks: disks as { name: string; serial: string }[], address: 'x' };
      expect(() => access.hosts.prime(name, told, 'admin')).toThrow(message);
      expect(access.hosts.list()).toHaveLength(2);
    }),
  );

  test('the last mark cannot be taken away', () =>
    scoped(async (scope) => {
      const { access } = await open(scope);
      expect(() => access.updateHost('hyper1', { addresses: [] }, 'a')).toThrow(/nobody could be/);
    }));
});

describe('rate limits', () => {
  test('are kept, changed one by one and taken away', () =>
    scoped(async (scope) => {
      const { rates, reopen } = await open(scope);
      await rates.change('1203', { iops: 100, mbPerSecond: 2.5 }, 'admin');
      await rates.change('1203', { connectionIops: 7, burstSeconds: 0.5 }, 'admin');
      const expected = {
        volume: '1203',
        iops: 100,
        mbPerSecond: 2.5,
        connectionIops: 7,
        connectionMbPerSecond: null,
        burstSeconds: 0.5,
      };
      expect(rates.show('1203')).toEqual(expected);
      expect(reopen().rates.show('1203')).toEqual(expected);
      const none = { iops: null, mbPerSecond: null, connectionIops: null };
      await rates.change('1203', none, 'admin');
      expect(reopen().rates.show('1203')).toMatchObject({ ...none, burstSeconds: 1 });
    }));

  test.each<[object, RegExp]>([
    [{ iops: 0 }, /iops 0 refused: use 1 to 10000000/],
    [{ iops: 1.5 }, /a whole number/],
    [{ mbPerSecond: 0.01 }, /use 0\.1 to/],
    [{ connectionIops: 1e9 }, /refused/],
    [{ burstSeconds: 61 }, /use 0\.01 to 60/],
  ])('%j is refused', (change, message) =>
    scoped(async (scope) => {
      const { rates } = await open(scope);
      await expect(rates.change('1203', change, 'admin')).rejects.toThrow(message);
    }),
  );
});
