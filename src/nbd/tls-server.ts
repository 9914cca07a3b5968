/**
 * TLS of the NBD listeners: holds the credentials and rules in use, replaces them as a whole, and
 * encrypts one connection at a time, natively or over the bridge.
 */

import type { Socket } from 'node:net';
import { createSecureContext, type TlsOptions } from 'node:tls';
import { FlashlunError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import { createTlsContext, nativeTlsVersion } from '../engine/index.js';
import type { TlsContext, TlsCredentials } from '../engine/types.js';
import type { NegotiatedTls } from './starttls.js';
import { BridgedTls, bridgeOptions, type Bridges } from './tls-bridge.js';
import { readTlsFiles, type TlsSources } from './tls-files.js';
import { NativeTls } from './tls-native.js';
import type { TlsRules } from './tls-rules.js';
import type { SecureTransport } from './tls-transport.js';

export type TlsTransportMode = 'auto' | 'native' | 'bridge';

export interface TlsServerOptions extends TlsSources {
  readonly mode: 'on' | 'require';
  /** `auto`: native code where it can, else the bridge. */
  readonly transport: TlsTransportMode;
  readonly log: Logger;
}

/** What connections are encrypted with from now on. */
interface Generation {
  readonly rules: TlsRules;
  readonly credentials: TlsCredentials;
  /** Undefined: the bridge does it, with these options. */
  readonly context: TlsContext | undefined;
  readonly options: TlsOptions;
}

export class TlsServer {
  readonly #options: TlsServerOptions;
  readonly #log: Logger;
  readonly #isNative: boolean;
  readonly #bridges: Bridges = new Set();
  #generation: Generation;

  /**
   * @throws FlashlunError CONFIG_INVALID a file cannot be used, or `native` is asked for and this
   * build or this Node cannot do it.
   */
  constructor(options: TlsServerOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'tls' });
    this.#isNative = options.transport !== 'bridge' && this.#canBeNative();
    this.#generation = this.#read();
    const { mode } = options;
    this.#log.debug({ mode, transport: this.transport, ...this.#facts() }, 'TLS is ready');
  }

  /** Who encrypts. */
  get transport(): 'native' | 'bridge' {
    return this.#isNative ? 'native' : 'bridge';
  }

  /** As a negotiation that begins now has it. */
  get negotiated(): NegotiatedTls {
    return { mode: this.#options.mode, rules: this.#generation.rules };
  }

  /**
   * Reads all files again. What is connected stays as it is. When a file cannot be used, nothing
   * changes. Logs one line either way.
   */
  reload(): void {
    try {
      this.#generation = this.#read();
      this.#log.info(this.#facts(), 'TLS files were read again; new connections use them');
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#log.error({ reason }, 'TLS files were not taken over; the ones before stay in use');
    }
  }

  /** Begins the TLS handshake on a socket that has been read empty. */
  secure(socket: Socket): SecureTransport {
    const { context, credentials, options } = this.#generation;
    if (context !== undefined) return new NativeTls(socket, context);
    return new BridgedTls(socket, credentials, options, this.#bridges);
  }

  /** Resolves when the bridges have carried their last byte, or the time is over. */
  async idle(deadlineMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, deadlineMs);
    });
    await Promise.race([Promise.all([...this.#bridges]), late]);
    clearTimeout(timer);
  }

  #canBeNative(): boolean {
    try {
      nativeTlsVersion();
      return true;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      if (this.#options.transport === 'native') {
        const message =
          `--nbd-tls-transport native refused: ${reason}. ` +
          'Use auto or bridge, or build on this machine with the headers of this Node.';
        throw new FlashlunError('CONFIG_INVALID', message, { cause: error });
      }
      this.#log.warn({ reason }, 'TLS by the JavaScript bridge, which is slower');
      return false;
    }
  }

  #read(): Generation {
    const { credentials, rules } = readTlsFiles(this.#options);
    const options = bridgeOptions(credentials);
    try {
      const context = this.#isNative ? createTlsContext(credentials) : undefined;
      // The bridge makes its contexts when a client comes; what is wrong shall show now.
      if (context === undefined) createSecureContext(options);
      return { rules, credentials, context, options };
    } catch (error) {
      const where = this.#options.certificates ?? this.#options.psk ?? '';
      const reason = error instanceof Error ? error.message : String(error);
      const message = `TLS: the files in ${where} cannot be used: ${reason}. Check them.`;
      throw new FlashlunError('CONFIG_INVALID', message, { cause: error });
    }
  }

  #facts(): Record<string, unknown> {
    const { credentials } = this.#generation;
    const { certificates, psk, rules } = this.#options;
    const { verifyPeer } = credentials;
    return { certificates, psk, rules, verifyPeer, revocation: credentials.crl !== '' };
  }
}
