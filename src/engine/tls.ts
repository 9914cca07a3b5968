/** TLS sessions in native code behind the interfaces of types.ts. */

import { assert } from '../base/assert.js';
import type { NativeAddon, NativeTlsContext, NativeTlsSession } from './native.js';
import type { TlsContext, TlsCredentials, TlsPeerFacts, TlsReceived, TlsSession } from './types.js';

export class NativeContext implements TlsContext {
  readonly #native: NativeAddon;
  readonly #context: NativeTlsContext;

  constructor(native: NativeAddon, credentials: TlsCredentials) {
    this.#native = native;
    this.#context = native.tlsContext(credentials);
  }

  newSession(): TlsSession {
    return new Session(this.#native, this.#native.tlsSession(this.#context));
  }
}

class Session implements TlsSession {
  readonly #native: NativeAddon;
  readonly session: NativeTlsSession;

  constructor(native: NativeAddon, session: NativeTlsSession) {
    this.#native = native;
    this.session = session;
  }

  receive(ciphertext: Uint8Array): TlsReceived {
    return this.#native.tlsReceive(this.session, ciphertext);
  }

  send(plaintext: Uint8Array): Buffer {
    return this.#native.tlsSend(this.session, plaintext);
  }

  end(): Buffer {
    return this.#native.tlsEnd(this.session);
  }

  hold(ciphertext: Uint8Array): void {
    this.#native.tlsHold(this.session, ciphertext);
  }

  peer(): TlsPeerFacts {
    return this.#native.tlsPeer(this.session);
  }
}

/** What `adopt` gives to native code. */
export function nativeSession(session: TlsSession): NativeTlsSession {
  assert(session instanceof Session, 'a session of native code');
  return session.session;
}
