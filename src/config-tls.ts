/** The nbd-tls settings: how they belong together. The files they name are read by the server. */

import path from 'node:path';
import Type, { type Static } from 'typebox';
import type { FlashlunError } from './base/errors.js';
import type { TlsTransportMode } from './nbd/tls-server.js';

/** TLS of NBD, on or required; exactly one of `certificates` and `psk`. Paths are absolute. */
export interface TlsConfig {
  readonly mode: 'on' | 'require';
  readonly certificates: string | undefined;
  readonly psk: string | undefined;
  readonly rules: string | undefined;
  readonly verifyPeer: boolean;
  readonly transport: TlsTransportMode;
}

/** As the command line parser names them. */
export interface TlsFlags {
  readonly nbdTls?: string;
  readonly nbdTlsCertificates?: string;
  readonly nbdTlsPsk?: string;
  readonly nbdTlsVerifyPeer?: boolean;
  readonly nbdTlsRules?: string;
  readonly nbdTlsTransport?: string;
}

/** Their part of the schema in config.ts. */
export const TLS_SETTINGS = {
  'nbd-tls': Type.String(),
  'nbd-tls-certificates': Type.Optional(Type.String({ minLength: 1 })),
  'nbd-tls-psk': Type.Optional(Type.String({ minLength: 1 })),
  'nbd-tls-verify-peer': Type.Boolean(),
  'nbd-tls-rules': Type.Optional(Type.String({ minLength: 1 })),
  'nbd-tls-transport': Type.String(),
};

export const TLS_DEFAULTS = {
  'nbd-tls': 'off',
  'nbd-tls-verify-peer': false,
  'nbd-tls-transport': 'auto',
} as const;

const TlsSettings = Type.Object(TLS_SETTINGS);
/** The settings as they come, their types checked. */
export type RawTls = Static<typeof TlsSettings>;

/**
 * Undefined when TLS is off. @throws what `invalid` makes of a setting that does not fit the others
 */
export function checkTls(
  raw: RawTls,
  invalid: (key: string, reason: string) => FlashlunError,
): TlsConfig | undefined {
  const mode = raw['nbd-tls'];
  if (mode !== 'off' && mode !== 'on' && mode !== 'require') {
    throw invalid('nbd-tls', 'use off, on or require');
  }
  if (mode === 'off') {
    refuseUnused(raw, invalid);
    return undefined;
  }
  const certificates = absolute(raw['nbd-tls-certificates']);
  const psk = absolute(raw['nbd-tls-psk']);
  if ((certificates === undefined) === (psk === undefined)) {
    const which = certificates === undefined ? 'one of' : 'only one of';
    throw invalid('nbd-tls', `give ${which} --nbd-tls-certificates DIR and --nbd-tls-psk FILE`);
  }
  const verifyPeer = raw['nbd-tls-verify-peer'];
  if (verifyPeer && psk !== undefined) {
    throw invalid('nbd-tls-verify-peer', 'with pre-shared keys there are no certificates');
  }
  const rules = absolute(raw['nbd-tls-rules']);
  return { mode, certificates, psk, rules, verifyPeer, transport: checkTransport(raw, invalid) };
}

/** What --print-config shows of it. */
export function printableTls(tls: TlsConfig | undefined): Record<string, string | boolean> {
  if (tls === undefined) return { 'nbd-tls': 'off' };
  return {
    'nbd-tls': tls.mode,
    ...(tls.certificates === undefined ? {} : { 'nbd-tls-certificates': tls.certificates }),
    ...(tls.psk === undefined ? {} : { 'nbd-tls-psk': tls.psk }),
    'nbd-tls-verify-peer': tls.verifyPeer,
    ...(tls.rules === undefined ? {} : { 'nbd-tls-rules': tls.rules }),
    'nbd-tls-transport': tls.transport,
  };
}

/** Somebody who names a certificate believes that it is used. */
function refuseUnused(raw: RawTls, invalid: (key: string, reason: string) => FlashlunError): void {
  for (const key of ['nbd-tls-certificates', 'nbd-tls-psk', 'nbd-tls-rules'] as const) {
    if (raw[key] !== undefined) throw invalid(key, 'TLS is off: give --nbd-tls on or require too');
  }
  if (raw['nbd-tls-verify-peer']) {
    throw invalid('nbd-tls-verify-peer', 'TLS is off: give --nbd-tls on or require too');
  }
}

function checkTransport(
  raw: RawTls,
  invalid: (key: string, reason: string) => FlashlunError,
): TlsTransportMode {
  const transport = raw['nbd-tls-transport'];
  if (transport === 'auto' || transport === 'native' || transport === 'bridge') return transport;
  throw invalid('nbd-tls-transport', 'use auto, native or bridge');
}

function absolute(file: string | undefined): string | undefined {
  return file === undefined ? undefined : path.resolve(file);
}
