/**
 * Who is at the other end of a TLS connection. Everything here has been verified by the handshake:
 * a certificate against the CA and its revocation list, a pre-shared key by its use.
 */

import { X509Certificate } from 'node:crypto';

/** A client by its certificate, or by the name of its pre-shared key. */
export type TlsIdentity =
  | {
      readonly kind: 'x509';
      /** As RFC 4514 writes it, most specific part first: `CN=vm1,O=Lab`. */
      readonly subject: string;
      /** Subject alternative names: `DNS:vm1.lab`, `IP:192.0.2.7`, `URI:...`, `email:...`. */
      readonly names: readonly string[];
      /** SHA-256 of the certificate, hex with colons. */
      readonly fingerprint: string;
    }
  | { readonly kind: 'psk'; readonly identity: string };

/** One open TLS connection. */
export interface TlsPeer {
  /** `TLSv1.3`. */
  readonly protocol: string;
  /** IANA's name of the cipher suite. */
  readonly cipher: string;
  /** Undefined when the client was not asked, or showed nothing. */
  readonly identity: TlsIdentity | undefined;
}

/** The identity that a verified certificate gives. */
export function certificateIdentity(certificate: X509Certificate | Uint8Array): TlsIdentity {
  const parsed =
    certificate instanceof X509Certificate ? certificate : new X509Certificate(certificate);
  return {
    kind: 'x509',
    subject: subjectOf(parsed.subject),
    names: alternativeNames(parsed.subjectAltName),
    fingerprint: parsed.fingerprint256,
  };
}

/** One line for logs and refusals. */
export function describeIdentity(identity: TlsIdentity | undefined): string {
  if (identity === undefined) return 'no certificate';
  return identity.kind === 'psk' ? `PSK:${identity.identity}` : identity.subject;
}

/** Every name that the client has proved, as access rules write them. */
export function namesOf(identity: TlsIdentity | undefined): string[] {
  if (identity === undefined) return [];
  if (identity.kind === 'psk') return [describeIdentity(identity)];
  return [identity.subject, ...identity.names];
}

/**
 * Node gives one line for each part, in the order of the certificate, which is the reverse of how
 * names are written. Special characters in values are escaped already (RFC 2253).
 */
function subjectOf(lines: string | undefined): string {
  return (lines ?? '').split('\n').filter(Boolean).reverse().join(',');
}

/** Node's `DNS:a, IP Address:1.2.3.4, URI:"with, special \"ones\""`, taken apart. */
export function alternativeNames(text: string | undefined): string[] {
  const names: string[] = [];
  const part = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)/y;
  for (let match = part.exec(text ?? ''); match !== null; match = part.exec(text ?? '')) {
    const [, kind, value = ''] = match;
    const name = value.startsWith('"') ? (JSON.parse(value) as string) : value;
    names.push(`${kind === 'IP Address' ? 'IP' : kind}:${name}`);
    if (part.lastIndex >= (text ?? '').length) break;
  }
  return names;
}
