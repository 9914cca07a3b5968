/**
 * TLS in what `flashlun attach` prints. Folders and names are the clients' own defaults, for the
 * person to replace; docs/operations.md says how to make what belongs there.
 */

import { FlashlunError } from '../base/errors.js';

/** Where QEMU and libvirt look for ca-cert.pem, client-cert.pem and client-key.pem. */
const QEMU_X509 = '/etc/pki/qemu';
const QEMU_PSK = '/etc/pki/qemu-psk';
/** Where libnbd (nbdinfo, nbdcopy, nbdfuse, fio) looks. */
const LIBNBD_X509 = '/etc/pki/libnbd';
const LIBNBD_PSK = '/etc/pki/libnbd/keys.psk';
const PSK_NAME = 'NAME';
/** A unix socket has no host name for the server's certificate to be checked against. */
const UNIX_HOSTNAME = 'localhost';

/** How clients prove who they are; undefined: the connection is plain text. */
export type TlsKind = 'x509' | 'psk' | undefined;

interface NbdTls {
  readonly tls?: 'off' | 'on' | 'require';
  readonly tlsCredentials?: 'none' | 'x509' | 'psk';
}

/**
 * Whether to use TLS: where the server requires it, and where it is asked for.
 *
 * @throws FlashlunError USAGE it is asked for and the server has none
 */
export function chooseTls(nbd: NbdTls, wanted: boolean): TlsKind {
  const { tls = 'off', tlsCredentials: kind = 'none' } = nbd;
  if (tls === 'off' && wanted) {
    throw new FlashlunError(
      'USAGE',
      'the server has no TLS. Start it with --nbd-tls on or require, or leave --tls out.',
    );
  }
  return (tls === 'require' || wanted) && kind !== 'none' ? kind : undefined;
}

/** QEMU's `-object` lines and what `-blockdev` adds to them. */
export function qemuTls(
  kind: TlsKind,
  node: string,
  unix: boolean,
): { objects: string[]; blockdev: string } {
  if (kind === undefined) return { objects: [], blockdev: '' };
  const id = `tls-${node}`;
  const object =
    kind === 'x509'
      ? `tls-creds-x509,id=${id},endpoint=client,dir=${QEMU_X509},verify-peer=yes`
      : `tls-creds-psk,id=${id},endpoint=client,dir=${QEMU_PSK},username=${PSK_NAME}`;
  const hostname = kind === 'x509' && unix ? `,tls-hostname=${UNIX_HOSTNAME}` : '';
  return { objects: [`-object ${object} \\`], blockdev: `,tls-creds=${id}${hostname}` };
}

/** Attributes of libvirt's `<source>`. @throws FlashlunError USAGE with pre-shared keys */
export function libvirtTls(kind: TlsKind, unix: boolean): string {
  if (kind === undefined) return '';
  if (kind === 'psk') throw certificatesOnly('libvirt');
  return unix ? ` tls='yes' tlsHostname='${UNIX_HOSTNAME}'` : " tls='yes'";
}

/** Arguments of nbd-client. @throws FlashlunError USAGE with pre-shared keys */
export function nbdClientTls(kind: TlsKind): string {
  if (kind === undefined) return '';
  if (kind === 'psk') throw certificatesOnly('nbd-client');
  return (
    ` -certfile ${LIBNBD_X509}/client-cert.pem -keyfile ${LIBNBD_X509}/client-key.pem` +
    ` -cacertfile ${LIBNBD_X509}/ca-cert.pem`
  );
}

/** Parts of libnbd's URI: after `nbd`, before the host, and parameters. */
export function uriTls(kind: TlsKind): { scheme: string; user: string; parameters: string[] } {
  if (kind === undefined) return { scheme: 'nbd', user: '', parameters: [] };
  if (kind === 'psk') {
    return { scheme: 'nbds', user: `${PSK_NAME}@`, parameters: [`tls-psk-file=${LIBNBD_PSK}`] };
  }
  return { scheme: 'nbds', user: '', parameters: [`tls-certificates=${LIBNBD_X509}`] };
}

function certificatesOnly(client: string): FlashlunError {
  return new FlashlunError(
    'USAGE',
    `${client} knows certificates only, and the server has pre-shared keys. ` +
      'Use --format qemu or uri, or start the server with --nbd-tls-certificates.',
  );
}
