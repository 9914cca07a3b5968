/** Credentials for TLS tests, made on the spot, and clients that go through STARTTLS. */
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import type { NetConnectOpts, Socket } from 'node:net';
import { join } from 'node:path';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import type { Scope } from './cleanup.js';
import { ok } from './exec.js';
import { NbdPeer, nextReply } from './nbd-peer.js';
import { clientFlags, OPT, option, REP } from './nbd-wire.js';
import { RawSocket } from './raw-socket.js';

/** A certificate authority in a folder, as docs/operations.md makes one. */
export class Pki {
  readonly dir: string;
  /** What the server is given. */
  readonly server: string;

  private constructor(dir: string) {
    this.dir = dir;
    this.server = join(dir, 'server');
  }

  /** A new CA, and a server's certificate for localhost. */
  static async make(scope: Scope): Promise<Pki> {
    const pki = new Pki(await scope.tempDir());
    await mkdir(pki.server);
    await pki.#openssl(
      ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=Test CA'],
      ...['-keyout', 'ca-key.pem', '-out', 'ca-cert.pem'],
    );
    await writeFile(join(pki.dir, 'index.txt'), '');
    await copyFile(join(pki.dir, 'ca-cert.pem'), join(pki.server, 'ca-cert.pem'));
    await pki.#issue('server', '/CN=localhost', 'DNS:localhost,IP:127.0.0.1');
    await pki.renewServer();
    return pki;
  }

  /** A folder with ca-cert.pem, client-cert.pem and client-key.pem. */
  async client(name: string): Promise<string> {
    const folder = join(this.dir, name);
    await mkdir(folder);
    await this.#issue(name, `/O=Lab/CN=${name}`, `DNS:${name}.lab`);
    await copyFile(join(this.dir, 'ca-cert.pem'), join(folder, 'ca-cert.pem'));
    for (const kind of ['cert', 'key']) {
      await copyFile(join(this.dir, `${name}-${kind}.pem`), join(folder, `client-${kind}.pem`));
    }
    return folder;
  }

  /** Puts a certificate of `name` into the server's folder; a new one of its own without. */
  async renewServer(name = 'server'): Promise<void> {
    for (const kind of ['key', 'cert']) {
      const from = join(this.dir, `${name}-${kind}.pem`);
      await copyFile(from, join(this.server, `server-${kind}.pem`));
    }
  }

  /** A second certificate for the server, not yet in its folder. */
  async issueServer(name: string): Promise<void> {
    await this.#issue(name, `/CN=${name}`, 'DNS:localhost,IP:127.0.0.1');
  }

  /** Revokes a client's certificate, in the server's folder too. */
  async revoke(name: string): Promise<void> {
    const config = join(this.dir, 'ca.cnf');
    await writeFile(
      config,
      `[ca]\ndefault_ca=a\n[a]\ndatabase=${join(this.dir, 'index.txt')}\ndefault_md=sha256\n` +
        'default_crl_days=2\n',
    );
    const ca = ['-config', config, '-cert', 'ca-cert.pem', '-keyfile', 'ca-key.pem'];
    await this.#openssl('ca', ...ca, '-revoke', `${name}-cert.pem`);
    await this.#openssl('ca', ...ca, '-gencrl', '-out', join(this.server, 'ca-crl.pem'));
  }

  async #issue(name: string, subject: string, alternativeNames: string): Promise<void> {
    const extensions = join(this.dir, `${name}.ext`);
    await writeFile(extensions, `basicConstraints=CA:FALSE\nsubjectAltName=${alternativeNames}\n`);
    await this.#openssl(
      ...['req', '-newkey', 'rsa:2048', '-nodes', '-subj', subject],
      ...['-keyout', `${name}-key.pem`, '-out', `${name}.csr`],
    );
    await this.#openssl(
      ...['x509', '-req', '-in', `${name}.csr`, '-days', '2', '-extfile', extensions],
      ...['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial'],
      ...['-out', `${name}-cert.pem`],
    );
  }

  async #openssl(...args: string[]): Promise<void> {
    await ok('openssl', args, { cwd: this.dir });
  }
}

/** A file of pre-shared keys for these names; its folder is what QEMU's client wants. */
export async function makePsk(scope: Scope, ...names: string[]): Promise<string> {
  const file = join(await scope.tempDir(), 'keys.psk');
  const lines = names.map((name) => `${name}:${randomBytes(32).toString('hex')}\n`);
  await writeFile(file, lines.join(''));
  return file;
}

/** What Node's TLS client needs to be the client of a folder made by `Pki.client`. */
export async function clientOptions(folder: string): Promise<ConnectionOptions> {
  const [ca, cert, key] = await Promise.all(
    ['ca-cert.pem', 'client-cert.pem', 'client-key.pem'].map((name) =>
      readFile(join(folder, name)),
    ),
  );
  return { ca: ca!, cert: cert!, key: key!, servername: 'localhost' };
}

/** The same for the client `name` of a file made by `makePsk`. */
export async function pskOptions(file: string, name: string): Promise<ConnectionOptions> {
  const line = (await readFile(file, 'utf8'))
    .split('\n')
    .find((each) => each.startsWith(`${name}:`));
  const key = Buffer.from(line?.slice(name.length + 1) ?? '', 'hex');
  return {
    ciphers: 'PSK',
    pskCallback: () => ({ identity: name, psk: key }),
    // There is no certificate that could name the server.
    checkServerIdentity: () => undefined,
  };
}

/**
 * Greeting, flags, STARTTLS and its ACK; the socket is ready for a TLS handshake. `before` is an
 * option whose ACK comes first.
 */
export async function startTls(address: NetConnectOpts, before?: Uint8Array): Promise<Socket> {
  const raw = await NbdPeer.greeted(address);
  raw.send(clientFlags());
  if (before !== undefined) {
    raw.send(before);
    if ((await nextReply(raw)).type !== REP.ack) throw new Error('the first option was refused');
  }
  raw.send(option(OPT.startTls));
  const { type } = await nextReply(raw);
  if (type !== REP.ack) throw new Error(`STARTTLS was refused (${type})`);
  return raw.release();
}

/** An encrypted connection on which the next thing to send is an option. */
export async function secured(
  address: NetConnectOpts,
  options: ConnectionOptions,
  before?: Uint8Array,
): Promise<{ raw: RawSocket; socket: TLSSocket }> {
  const plain = await startTls(address, before);
  const socket = connect({ ...options, socket: plain, allowHalfOpen: true } as ConnectionOptions);
  await new Promise<void>((resolve, reject) => {
    socket.once('secureConnect', resolve).once('error', reject);
    plain.once('close', () => reject(new Error('closed during the TLS handshake')));
  });
  return { raw: RawSocket.of(socket), socket };
}
