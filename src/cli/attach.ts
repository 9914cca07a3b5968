/**
 * What to paste to attach a LUN, per kind of client.
 *
 * NBD carries no SCSI identity, so the hypervisor has to be told who the disk is: vendor IBM,
 * product 2105800 (an ESS 800) and the 8-character serial, which is what a guest's tools and
 * multipath rules look at.
 */

import { FlashlunError } from '../base/errors.js';
import {
  chooseTls,
  libvirtTls,
  nbdClientTls,
  qemuTls,
  type TlsKind,
  uriTls,
} from './attach-tls.js';

export const ATTACH_FORMATS = ['qemu', 'libvirt', 'nbd-client', 'fio', 'uri', 'nbdfuse'] as const;
export type AttachFormat = (typeof ATTACH_FORMATS)[number];
export type Transport = 'unix' | 'tcp';

/**
 * SCSI INQUIRY identity of an ESS model 800 (reference: multipath-tools' hwtable, "IBM" "^2105").
 */
const VENDOR = 'IBM';
const PRODUCT = '2105800';

interface Volume {
  readonly id: string;
  readonly serial: string;
  /** Logical block size; NBD clients other than QEMU's device model do not take it over. */
  readonly blockBytes: number;
}

/** Where the server listens: `host:port` or nothing, a socket's path or nothing. */
interface NbdAddresses {
  readonly tcp: string | null;
  readonly unix: string | null;
  /** Servers before 0.2 say nothing of it and have none. */
  readonly tls?: 'off' | 'on' | 'require';
  readonly tlsCredentials?: 'none' | 'x509' | 'psk';
}

interface AttachOptions {
  readonly format: AttachFormat;
  /** TLS also where the server does not require it. */
  readonly tls?: boolean;
  /** Default: the unix socket when there is one. */
  readonly transport?: Transport;
}

type Address =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: string };

/**
 * Lines to paste, ending with a newline. @throws FlashlunError USAGE the server does not listen
 * that way, or the client has no TLS of the server's kind
 */
export function attachText(volume: Volume, nbd: NbdAddresses, options: AttachOptions): string {
  const address = chooseAddress(nbd, options.transport);
  const tls = chooseTls(nbd, options.tls === true);
  const lines = linesFor(options.format, volume, address, tls);
  return `${lines.join('\n')}\n`;
}

function linesFor(format: AttachFormat, volume: Volume, address: Address, tls: TlsKind): string[] {
  switch (format) {
    case 'qemu':
      return qemuLines(volume, address, tls);
    case 'libvirt':
      return libvirtLines(volume, address, tls);
    case 'nbd-client':
      return nbdClientLines(volume, address, tls);
    case 'fio':
      return fioLines(volume, address, tls);
    case 'uri':
      return [nbdUri(volume, address, tls)];
    case 'nbdfuse':
      return nbdfuseLines(volume, address, tls);
  }
}

function chooseAddress(nbd: NbdAddresses, wanted: Transport | undefined): Address {
  const kind = wanted ?? (nbd.unix === null ? 'tcp' : 'unix');
  if (kind === 'unix' && nbd.unix !== null) return { kind, path: nbd.unix };
  if (kind === 'tcp' && nbd.tcp !== null) return { kind, ...splitHostPort(nbd.tcp) };
  const flag = kind === 'unix' ? '--nbd-unix PATH' : '--nbd HOST:PORT';
  throw new FlashlunError(
    'USAGE',
    `the server does not listen for NBD on ${kind === 'unix' ? 'a unix socket' : 'TCP'}. ` +
      `Start it with ${flag}, or choose the other --transport.`,
  );
}

function splitHostPort(text: string): { host: string; port: string } {
  const colon = text.lastIndexOf(':');
  const host = text.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  return { host, port: text.slice(colon + 1) };
}

/** The server's URI of NBD's own specification, understood by QEMU, libnbd and fio. */
function nbdUri(volume: Volume, address: Address, tls: TlsKind): string {
  const { scheme, user, parameters } = uriTls(tls);
  if (address.kind === 'unix') {
    const socket = encodeURI(address.path).replace(/[&#?+]/g, encodeURIComponent);
    const query = [`socket=${socket}`, ...parameters].join('&');
    return `${scheme}+unix://${user}/${volume.serial}?${query}`;
  }
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const query = parameters.length === 0 ? '' : `?${parameters.join('&')}`;
  return `${scheme}://${user}${host}:${address.port}/${volume.serial}${query}`;
}

function qemuLines(volume: Volume, address: Address, tls: TlsKind): string[] {
  const node = `lun${volume.serial}`;
  // A comma ends a value in QEMU's options; a doubled one stands for itself.
  const quoted = (text: string): string => text.replaceAll(',', ',,');
  const server =
    address.kind === 'unix'
      ? `server.type=unix,server.path=${quoted(address.path)}`
      : `server.type=inet,server.host=${quoted(address.host)},server.port=${address.port}`;
  const { objects, blockdev: secured } = qemuTls(tls, node, address.kind === 'unix');
  const blockdev =
    `driver=nbd,node-name=${node},${server},export=${volume.serial}${secured},` +
    // reconnect-delay: a restart of the server pauses the guest's I/O instead of failing it.
    'cache.direct=on,discard=unmap,reconnect-delay=60';
  const identity = `serial=${volume.serial},vendor=${VENDOR},product=${PRODUCT}`;
  return [
    '-device virtio-scsi-pci \\',
    ...objects,
    `-blockdev ${shellQuote(blockdev)} \\`,
    `-device scsi-hd,drive=${node},${identity}${qemuBlocks(volume)}`,
  ];
}

/** QEMU's disk has blocks of 512 bytes whatever the export says. */
function qemuBlocks({ blockBytes }: Volume): string {
  if (blockBytes === 512) return '';
  return `,logical_block_size=${blockBytes},physical_block_size=${blockBytes}`;
}

function libvirtLines(volume: Volume, address: Address, tls: TlsKind): string[] {
  const host =
    address.kind === 'unix'
      ? `<host transport='unix' socket='${xmlEscape(address.path)}'/>`
      : `<host name='${xmlEscape(address.host)}' port='${address.port}'/>`;
  const secured = libvirtTls(tls, address.kind === 'unix');
  return [
    "<controller type='scsi' index='0' model='virtio-scsi'/>",
    "<disk type='network' device='disk'>",
    "  <driver name='qemu' type='raw' cache='none' discard='unmap'/>",
    `  <source protocol='nbd' name='${volume.serial}'${secured}>`,
    `    ${host}`,
    '  </source>',
    ...libvirtBlocks(volume),
    "  <target dev='sda' bus='scsi'/>",
    `  <serial>${volume.serial}</serial>`,
    `  <vendor>${VENDOR}</vendor>`,
    `  <product>${PRODUCT}</product>`,
    '</disk>',
  ];
}

function libvirtBlocks({ blockBytes }: Volume): string[] {
  if (blockBytes === 512) return [];
  const size = `logical_block_size='${blockBytes}' physical_block_size='${blockBytes}'`;
  return [`  <blockio ${size}/>`];
}

function nbdClientLines(volume: Volume, address: Address, tls: TlsKind): string[] {
  const where =
    address.kind === 'unix'
      ? `-unix ${shellQuote(address.path)}`
      : `${shellQuote(address.host)} ${address.port}`;
  const blocks = volume.blockBytes === 512 ? '' : ` -block-size ${volume.blockBytes}`;
  const options = `${blocks} -persist${nbdClientTls(tls)}`;
  return ['modprobe nbd', `nbd-client ${where} /dev/nbd0 -name ${volume.serial}${options}`];
}

/** Reads only: what people paste to try it must not overwrite a disk. */
function fioLines(volume: Volume, address: Address, tls: TlsKind): string[] {
  const uri = shellQuote(nbdUri(volume, address, tls));
  return [
    `fio --name=${volume.serial} --ioengine=nbd --uri=${uri} \\`,
    '    --rw=randread --bs=4k --iodepth=32 --time_based --runtime=10',
  ];
}

function nbdfuseLines(volume: Volume, address: Address, tls: TlsKind): string[] {
  const dir = `/tmp/lun${volume.serial}`;
  const sectors = volume.blockBytes === 512 ? '' : ` --sector-size ${volume.blockBytes}`;
  return [
    `mkdir -p ${dir}`,
    `nbdfuse ${dir}/disk ${shellQuote(nbdUri(volume, address, tls))} &`,
    `until [ -e ${dir}/disk ]; do sleep 0.1; done`,
    `losetup --find --show${sectors} ${dir}/disk` +
      '    # as root: a block device to partition, mkfs and mount',
    `# afterwards: losetup --detach LOOP, then fusermount3 -u ${dir}`,
  ];
}

function shellQuote(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function xmlEscape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll("'", '&apos;');
}
