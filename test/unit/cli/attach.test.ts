// What `flashlun attach` prints, word by word: people paste it.
import { describe, expect, test } from 'vitest';
import { type AttachFormat, attachText, type Transport } from '../../../src/cli/attach.js';

const VOLUME = { id: '1203', serial: '20313698', blockBytes: 512 };
const BOTH: { tcp: string | null; unix: string | null } = {
  tcp: '127.0.0.1:10809',
  unix: '/run/flashlun/nbd.sock',
};

function lines(format: AttachFormat, nbd = BOTH, transport?: Transport): string[] {
  const options = transport === undefined ? { format } : { format, transport };
  return attachText(VOLUME, nbd, options).split('\n').slice(0, -1);
}

describe('attachText', () => {
  test('qemu: a SCSI disk with the identity of an ESS LUN', () => {
    expect(lines('qemu')).toEqual([
      '-device virtio-scsi-pci \\',
      '-blockdev driver=nbd,node-name=lun20313698,server.type=unix,' +
        'server.path=/run/flashlun/nbd.sock,export=20313698,' +
        'cache.direct=on,discard=unmap,reconnect-delay=60 \\',
      '-device scsi-hd,drive=lun20313698,serial=20313698,vendor=IBM,product=2105800',
    ]);
  });

  test('qemu over TCP', () => {
    expect(lines('qemu', BOTH, 'tcp')[1]).toContain(
      'server.type=inet,server.host=127.0.0.1,server.port=10809,export=20313698',
    );
  });

  test('qemu: commas and blanks of a path survive QEMU and the shell', () => {
    const nbd = { tcp: null, unix: "/tmp/it's a,b/nbd.sock" };
    expect(lines('qemu', nbd)[1]).toContain("server.path=/tmp/it'\\''s a,,b/nbd.sock,");
  });

  test('libvirt: disk XML', () => {
    expect(lines('libvirt')).toEqual([
      "<controller type='scsi' index='0' model='virtio-scsi'/>",
      "<disk type='network' device='disk'>",
      "  <driver name='qemu' type='raw' cache='none' discard='unmap'/>",
      "  <source protocol='nbd' name='20313698'>",
      "    <host transport='unix' socket='/run/flashlun/nbd.sock'/>",
      '  </source>',
      "  <target dev='sda' bus='scsi'/>",
      '  <serial>20313698</serial>',
      '  <vendor>IBM</vendor>',
      '  <product>2105800</product>',
      '</disk>',
    ]);
  });

  test.each([
    ['unix', 'nbd+unix:///20313698?socket=/run/flashlun/nbd.sock'],
    ['tcp', 'nbd://127.0.0.1:10809/20313698'],
  ] as const)('uri over %s', (transport, uri) => {
    expect(lines('uri', BOTH, transport)).toEqual([uri]);
  });

  test('uri: what has a meaning in a query is encoded, an IPv6 address is bracketed', () => {
    expect(lines('uri', { tcp: null, unix: '/a b&c#d' })).toEqual([
      'nbd+unix:///20313698?socket=/a%20b%26c%23d',
    ]);
    expect(lines('uri', { tcp: '[::1]:10809', unix: null })).toEqual([
      'nbd://[::1]:10809/20313698',
    ]);
  });

  test('nbd-client: the order of words its manual asks for', () => {
    expect(lines('nbd-client')[1]).toBe(
      'nbd-client -unix /run/flashlun/nbd.sock /dev/nbd0 -name 20313698 -persist',
    );
    expect(lines('nbd-client', BOTH, 'tcp')[1]).toBe(
      'nbd-client 127.0.0.1 10809 /dev/nbd0 -name 20313698 -persist',
    );
  });

  test('fio only reads: pasting it must not overwrite a disk', () => {
    const text = lines('fio').join('\n');
    expect(text).toContain("--uri='nbd+unix:///20313698?socket=/run/flashlun/nbd.sock'");
    expect(text).toMatch(/--rw=randread /);
    expect(text).not.toMatch(/write/);
  });

  test('a way the server does not listen is refused with the option that opens it', () => {
    const none = { tcp: null, unix: null };
    expect(() => attachText(VOLUME, none, { format: 'uri' })).toThrow(/--nbd HOST:PORT/);
    expect(() => attachText(VOLUME, none, { format: 'uri', transport: 'unix' })).toThrow(
      /--nbd-unix PATH/,
    );
  });

  test('a 4Kn volume: every format says so', () => {
    const text = (format: AttachFormat) =>
      attachText({ ...VOLUME, blockBytes: 4096 }, BOTH, { format });
    expect(text('qemu')).toContain(',logical_block_size=4096,physical_block_size=4096\n');
    expect(text('libvirt')).toContain(
      "<blockio logical_block_size='4096' physical_block_size='4096'/>",
    );
    expect(text('nbd-client')).toContain(' -block-size 4096 -persist');
    expect(text('nbdfuse')).toContain('--sector-size 4096');
  });
});

describe('TLS', () => {
  const X509 = { ...BOTH, tls: 'require', tlsCredentials: 'x509' } as const;
  const PSK = { ...BOTH, tls: 'require', tlsCredentials: 'psk' } as const;

  test('qemu: an object with the credentials, and what refers to it', () => {
    const [, object, blockdev] = lines('qemu', X509, 'tcp');
    expect(object).toBe(
      '-object tls-creds-x509,id=tls-lun20313698,endpoint=client,dir=/etc/pki/qemu,' +
        'verify-peer=yes \\',
    );
    expect(blockdev).toContain('export=20313698,tls-creds=tls-lun20313698,cache.direct=on');
    expect(lines('qemu', X509)[2]).toContain(',tls-hostname=localhost,cache.direct=on');
    expect(lines('qemu', PSK)[1]).toContain('tls-creds-psk,id=tls-lun20313698,endpoint=client,');
    expect(lines('qemu', PSK)[2]).not.toContain('tls-hostname');
  });

  test('libvirt and nbd-client have certificates only', () => {
    expect(lines('libvirt', X509, 'tcp')).toContain(
      "  <source protocol='nbd' name='20313698' tls='yes'>",
    );
    expect(lines('nbd-client', X509, 'tcp')[1]).toMatch(/-certfile .* -cacertfile /);
    expect(() => lines('libvirt', PSK)).toThrow(/certificates only/);
    expect(() => lines('nbd-client', PSK)).toThrow(/certificates only/);
  });

  test.each([
    [X509, 'tcp', 'nbds://127.0.0.1:10809/20313698?tls-certificates=/etc/pki/libnbd'],
    [PSK, 'tcp', 'nbds://NAME@127.0.0.1:10809/20313698?tls-psk-file=/etc/pki/libnbd/keys.psk'],
    [
      PSK,
      'unix',
      'nbds+unix://NAME@/20313698?socket=/run/flashlun/nbd.sock' +
        '&tls-psk-file=/etc/pki/libnbd/keys.psk',
    ],
  ] as const)('uri', (nbd, transport, uri) => {
    expect(lines('uri', nbd, transport)).toEqual([uri]);
  });

  test('where it is not required it is used when asked for', () => {
    const nbd = { ...X509, tls: 'on' } as const;
    const uri = (tls: boolean, server = nbd as typeof BOTH): string =>
      attachText(VOLUME, server, { format: 'uri', transport: 'tcp', tls });
    expect(uri(false)).toMatch(/^nbd:/);
    expect(uri(true)).toMatch(/^nbds:/);
    expect(() => uri(true, BOTH)).toThrow(/has no TLS/);
  });
});
