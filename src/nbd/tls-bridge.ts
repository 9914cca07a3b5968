/**
 * TLS by Node: its TLSSocket on the client's side, a unix socket pair to a native connection on the
 * other, and JavaScript carries every byte between them. For runtimes whose OpenSSL native code
 * cannot use; slower, but the same to clients.
 */

import { constants, type X509Certificate } from 'node:crypto';
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { createServer, type TlsOptions, type TLSSocket } from 'node:tls';
import { LIMITS } from '../base/limits.js';
import { socketPair } from '../engine/index.js';
import type { TlsCredentials } from '../engine/types.js';
import { certificateIdentity, type TlsIdentity, type TlsPeer } from './tls-identity.js';
import type { AdoptSecure, SecureTransport } from './tls-transport.js';

/** As native/tls/context.cc has them. */
const SUITES_13 = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';
const CIPHERS_12 =
  'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:' +
  'ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:' +
  'ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305';
const PSK_CIPHERS_12 =
  'DHE-PSK-AES128-GCM-SHA256:DHE-PSK-AES256-GCM-SHA384:' +
  'ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-CHACHA20-POLY1305';

/** Bridges that still carry something: what an orderly stop waits for. */
export type Bridges = Set<Promise<void>>;

/** What Node's TLS server takes, from the same credentials that native code takes. */
export function bridgeOptions(credentials: TlsCredentials): TlsOptions {
  const { certificate, key, ca, crl, verifyPeer, psk } = credentials;
  const ciphers = psk.length > 0 ? PSK_CIPHERS_12 : CIPHERS_12;
  const common: TlsOptions = {
    minVersion: 'TLSv1.2',
    ciphers: `${SUITES_13}:${ciphers}:@SECLEVEL=2`,
    honorCipherOrder: true,
    dhparam: 'auto',
    // No resumption: a resumed session would outlive its certificate, and would look like one by a
    // pre-shared key.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    handshakeTimeout: LIMITS.nbdHandshakeMs,
  };
  if (psk.length > 0) return common;
  return {
    ...common,
    cert: certificate,
    key,
    ...(verifyPeer === 'no' ? {} : { ca, ...(crl === '' ? {} : { crl }) }),
    requestCert: verifyPeer !== 'no',
    rejectUnauthorized: verifyPeer === 'required',
  };
}

export class BridgedTls implements SecureTransport {
  onOpen: ((peer: TlsPeer) => void) | undefined;
  onFailed: ((reason: string) => void) | undefined;
  readonly #socket: Socket;
  readonly #bridges: Bridges;
  #stream: TLSSocket | undefined;
  /** The identity whose key was given out. There is no other credential then, so it was used. */
  #pskIdentity: string | undefined;

  /** The socket must have been read empty. */
  constructor(socket: Socket, credentials: TlsCredentials, options: TlsOptions, bridges: Bridges) {
    this.#socket = socket;
    this.#bridges = bridges;
    const { psk } = credentials;
    const keys = new Map(psk.map(({ identity, key }) => [identity, key]));
    const usePsk: TlsOptions = {
      pskCallback: (_socket, identity) => {
        const key = keys.get(identity);
        if (key !== undefined) this.#pskIdentity = identity;
        return key ?? null;
      },
    };
    // One for each connection, so that what it tells needs no telling apart. It never listens.
    const server = createServer({ ...options, ...(psk.length > 0 ? usePsk : {}) });
    server.on('secureConnection', (stream) => this.#onSecure(stream));
    server.on('tlsClientError', (error) => this.#fail(reasonOf(error)));
    socket.setKeepAlive(true, LIMITS.nbdKeepAliveMs);
    server.emit('connection', socket);
  }

  get stream(): Duplex {
    return this.#stream ?? this.#socket;
  }

  handOver(leftover: Uint8Array, adopt: AdoptSecure): number {
    const stream = this.stream;
    const [near, far] = socketPair();
    const bridge = new Socket({ fd: near, readable: true, writable: true, allowHalfOpen: true });
    try {
      const id = adopt(far, leftover, undefined);
      this.#carry(stream, bridge);
      return id;
    } catch (error) {
      bridge.destroy();
      stream.destroy();
      throw error;
    } finally {
      closeSync(far);
    }
  }

  #onSecure(stream: TLSSocket): void {
    const certificate = stream.getPeerX509Certificate();
    // An optional certificate: none is fine, a wrong one is not.
    if (certificate !== undefined && !stream.authorized && this.#pskIdentity === undefined) {
      stream.destroy();
      this.#fail(`certificate verify failed (${String(stream.authorizationError)})`);
      return;
    }
    this.#stream = stream;
    const cipher = stream.getCipher().standardName;
    const protocol = stream.getProtocol() ?? '';
    this.onOpen?.({ protocol, cipher, identity: this.#identity(certificate) });
  }

  #identity(certificate: X509Certificate | undefined): TlsIdentity | undefined {
    if (this.#pskIdentity !== undefined) return { kind: 'psk', identity: this.#pskIdentity };
    return certificate === undefined ? undefined : certificateIdentity(certificate);
  }

  #fail(reason: string): void {
    const onFailed = this.onFailed;
    this.onFailed = undefined;
    onFailed?.(reason);
  }

  /** Both ways until both have ended; a side that breaks takes the other one with it. */
  #carry(stream: Duplex, bridge: Socket): void {
    const closed = new Promise<void>((resolve) => {
      stream.once('close', resolve);
    });
    this.#bridges.add(closed);
    stream.on('error', () => bridge.destroy());
    stream.on('close', () => {
      this.#bridges.delete(closed);
      bridge.destroy();
    });
    bridge.on('error', () => stream.destroy());
    stream.pipe(bridge);
    bridge.pipe(stream, { end: false });
    // Native code says nothing more: close_notify and FIN behind its last byte.
    bridge.once('end', () => (stream as TLSSocket).destroySoon());
  }
}

function reasonOf(error: Error): string {
  // `C0D7...:error:0A000086:SSL routines:...:certificate verify failed:file.c:123:`
  const reason = error.message.split(':')[5]?.trim();
  return reason ?? error.message;
}
