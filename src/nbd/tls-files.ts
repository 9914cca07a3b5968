/**
 * The files behind TLS: a folder of X.509 files with the names that QEMU, libvirt and nbdkit use,
 * or a file of pre-shared keys, and a file of rules. Read whole and checked before any is used.
 */

import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileReason, errnoOf } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { TlsCredentials } from '../engine/types.js';
import { parseTlsRules, TlsRules } from './tls-rules.js';

/** Where everything is; exactly one of `certificates` and `psk`. */
export interface TlsSources {
  /** Folder with server-cert.pem, server-key.pem, ca-cert.pem and maybe ca-crl.pem. */
  readonly certificates?: string | undefined;
  /** File of `identity:hex key` lines. */
  readonly psk?: string | undefined;
  /** File of rules (tls-rules.ts). */
  readonly rules?: string | undefined;
  /** Every client must show a certificate of the CA. */
  readonly verifyPeer: boolean;
}

export interface TlsFiles {
  readonly credentials: TlsCredentials;
  readonly rules: TlsRules;
}

/** @throws FlashlunError CONFIG_INVALID, naming the file and what is wrong with it */
export function readTlsFiles(sources: TlsSources): TlsFiles {
  const rules = readRules(sources.rules);
  if (sources.psk !== undefined) {
    const none = { certificate: '', key: '', ca: '', crl: '', verifyPeer: 'no' } as const;
    return { credentials: { ...none, psk: readPsk(sources.psk) }, rules };
  }
  const folder = sources.certificates ?? '';
  const file = (name: string): string => path.join(folder, name);
  const verifyPeer = sources.verifyPeer ? 'required' : rules.nameClients ? 'optional' : 'no';
  return {
    credentials: {
      certificate: readText(file('server-cert.pem')),
      key: readText(file('server-key.pem')),
      ca: verifyPeer === 'no' ? '' : readText(file('ca-cert.pem')),
      crl: verifyPeer === 'no' ? '' : readIfThere(file('ca-crl.pem')),
      verifyPeer,
      psk: [],
    },
    rules,
  };
}

function readRules(file: string | undefined): TlsRules {
  if (file === undefined) return new TlsRules();
  const text = readText(file);
  try {
    return parseTlsRules(text);
  } catch (error) {
    throw unusable(file, error instanceof Error ? error.message : String(error), error);
  }
}

/** As GnuTLS' psktool writes it and nbdkit reads it; empty lines are skipped. */
function readPsk(file: string): TlsCredentials['psk'] {
  const lines = readText(file).split('\n');
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of lines.entries()) {
    if (line.trim() === '') continue;
    const refuse = (reason: string): never => {
      throw unusable(file, `line ${index + 1}: ${reason}`);
    };
    const match = /^([^:]+):((?:[0-9a-f]{2})+)\s*$/i.exec(line);
    const identity = match?.[1] ?? refuse('it is not IDENTITY:HEX-KEY');
    const key = Buffer.from(match?.[2] ?? '', 'hex');
    if (Buffer.byteLength(identity) > LIMITS.tlsPskIdentityBytes) {
      refuse(`an identity is at most ${LIMITS.tlsPskIdentityBytes} bytes`);
    }
    if (key.length < LIMITS.tlsPskMinBytes || key.length > LIMITS.tlsPskMaxBytes) {
      refuse(`a key has ${LIMITS.tlsPskMinBytes} to ${LIMITS.tlsPskMaxBytes} bytes`);
    }
    if (keys.has(identity)) refuse('this identity stands here twice');
    keys.set(identity, key);
  }
  if (keys.size === 0) throw unusable(file, 'it holds no key');
  if (keys.size > LIMITS.tlsPskEntries) {
    throw unusable(file, `it holds more than ${LIMITS.tlsPskEntries} keys`);
  }
  return [...keys].map(([identity, key]) => ({ identity, key }));
}

function readIfThere(file: string): string {
  try {
    statSync(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return '';
  }
  return readText(file);
}

function readText(file: string): string {
  try {
    if (statSync(file).size > LIMITS.tlsFileBytes) {
      throw new Error(`it is longer than ${LIMITS.tlsFileBytes} bytes`);
    }
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw unusable(file, fileReason(error), error);
  }
}

function unusable(file: string, reason: string, cause?: unknown): FlashlunError {
  const message = `TLS: ${file} cannot be used: ${reason}. See docs/operations.md, "TLS".`;
  return new FlashlunError('CONFIG_INVALID', message, { cause });
}
