/** Who is at the other end of an NBD connection, and whom a host's identities mean. */

import { BlockList, isIP } from 'node:net';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { shorten } from '../base/shorten.js';

/** What the server knows of a client. */
export interface PeerIdentity {
  readonly transport: 'tcp' | 'unix';
  /** Of a TCP client; IPv4 as `192.0.2.1`, also when it came to an IPv6 socket. */
  readonly address?: string | undefined;
  /** User id of a unix client, as of its connect (SO_PEERCRED). */
  readonly uid?: number | undefined;
  /**
   * Names that the client has proved by TLS: `CN=hyper1,O=Lab`, `DNS:hyper1.lab`, `PSK:hyper1`.
   * Set by negotiation.
   */
  tlsIdentities?: readonly string[] | undefined;
}

/** Marks of a host, of three kinds. */
export interface HostIdentities {
  /** IP addresses and networks (`192.0.2.0/24`). */
  readonly addresses: readonly string[];
  /** Users of this machine, on the unix socket. */
  readonly uids: readonly number[];
  readonly tlsIdentities: readonly string[];
}

/**
 * Whether a client is a host: it must have one of the host's marks of each kind that clients of its
 * transport have, and at least one in all. So a host with an address and a TLS identity is the one
 * that comes from there and proves that name, and TCP clients are never asked for a user.
 */
export type HostMatcher = (peer: PeerIdentity) => boolean;

/** Compiles the identities; they are valid. */
export function hostMatcher(identities: HostIdentities): HostMatcher {
  const networks = blockList(identities.addresses);
  const names = new Set(identities.tlsIdentities);
  const uids = new Set(identities.uids);
  return (peer) => {
    const byTls =
      names.size > 0 ? (peer.tlsIdentities ?? []).some((name) => names.has(name)) : undefined;
    const byPlace =
      peer.transport === 'tcp'
        ? identities.addresses.length > 0
          ? contains(networks, peer.address)
          : undefined
        : uids.size > 0
          ? peer.uid !== undefined && uids.has(peer.uid)
          : undefined;
    return byTls !== false && byPlace !== false && (byTls === true || byPlace === true);
  };
}

/** Whether only programs on this machine can be this client. */
export function isLocal(peer: PeerIdentity): boolean {
  return peer.transport === 'unix' || contains(LOOPBACK, peer.address);
}

/** `::ffff:192.0.2.1` is `192.0.2.1`, and a zone (`%eth0`) says nothing about who it is. */
export function plainAddress(address: string): string {
  const bare = address.replace(/%.*$/, '');
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(bare);
  return mapped?.[1] ?? bare;
}

/** An address or network as it is kept. @throws FlashlunError INVALID_ARGUMENT */
export function checkNetwork(text: string): string {
  const [base = '', prefix, ...rest] = text.trim().split('/');
  const address = plainAddress(base);
  const family = isIP(address);
  const longest = family === 4 ? 32 : 128;
  const isPrefix = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= longest);
  if (family === 0 || !isPrefix || rest.length > 0 || (prefix !== undefined && address !== base)) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `address '${shorten(text)}' refused: use an IP address or a network, ` +
        'for example 192.0.2.17, 192.0.2.0/24 or 2001:db8::/32.',
    );
  }
  return prefix === undefined ? address : `${address}/${Number(prefix)}`;
}

/** A name as TLS gives it: one line. @throws FlashlunError INVALID_ARGUMENT */
export function checkTlsIdentity(text: string): string {
  const bytes = Buffer.byteLength(text);
  if (
    text.trim() === text &&
    bytes > 0 &&
    bytes <= LIMITS.tlsIdentityBytes &&
    !/\p{Cc}/u.test(text)
  )
    return text;
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    `TLS identity '${shorten(text)}' refused: use the name the certificate has, on one line, ` +
      `at most ${LIMITS.tlsIdentityBytes} bytes.`,
  );
}

/** A Linux user id. @throws FlashlunError INVALID_ARGUMENT */
export function checkUid(uid: number): number {
  // 2^32 - 1 means "no user" to the system.
  if (Number.isInteger(uid) && uid >= 0 && uid < 2 ** 32 - 1) return uid;
  throw new FlashlunError('INVALID_ARGUMENT', `user id ${uid} refused: use 0 to 4294967294.`);
}

/**
 * What counts as one client for limits: an address, of IPv6 the network of 64 bits that one machine
 * usually has for itself, or a user of the unix socket.
 */
export function clientKey(peer: PeerIdentity): string {
  if (peer.transport === 'unix') return `uid ${peer.uid ?? 'unknown'}`;
  const address = peer.address ?? 'gone';
  if (isIP(address) !== 6 || isLocal(peer)) return address;
  return `${firstHalf(address)}/64`;
}

const LOOPBACK = blockList(['127.0.0.0/8', '::1']);

/** The first four groups of an IPv6 address without leading zeroes. */
function firstHalf(address: string): string {
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeroes = tail === undefined ? 0 : 8 - groups.length - after.length;
  const all = [...groups, ...Array.from({ length: Math.max(zeroes, 0) }, () => '0'), ...after];
  return `${all.slice(0, 4).join(':')}::`;
}

function blockList(networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const network of networks) {
    const [address = '', prefix] = network.split('/');
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
    if (prefix === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(prefix), family);
  }
  return list;
}

function contains(list: BlockList, address: string | undefined): boolean {
  if (address === undefined) return false;
  return list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}
