/**
 * Rules about TLS for each export: which ones need it, and which clients may then have them.
 *
 *   - exports: ['1203', '20*']          # volume ids, serials or names; * stands for anything
 *     clients: ['CN=vm1,*', 'DNS:*.lab.example', 'PSK:alice']
 *   - exports: ['13*']
 *     tls: optional
 *
 * The first rule that names an export decides. `tls` is `required` unless it says `optional`;
 * without `clients` every client that TLS lets in may have it. An export that no rule names is for
 * everybody.
 */

import { parse as parseYaml } from 'yaml';
import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import type { ExportTarget } from '../array/export-catalog.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { TlsIdentity } from './tls-identity.js';

const Patterns = Type.Array(Type.String({ minLength: 1, maxLength: LIMITS.tlsPatternChars }), {
  minItems: 1,
  maxItems: LIMITS.tlsRulePatterns,
});

const RuleFile = Type.Array(
  Type.Object(
    {
      exports: Patterns,
      tls: Type.Optional(Type.Union([Type.Literal('required'), Type.Literal('optional')])),
      clients: Type.Optional(Patterns),
    },
    { additionalProperties: false },
  ),
  { maxItems: LIMITS.tlsRules },
);

/** What a rule says about an export. */
export interface TlsRule {
  readonly required: boolean;
  /** Undefined: every client. */
  readonly clients: readonly Pattern[] | undefined;
}

export type Pattern = (text: string) => boolean;

interface Entry extends TlsRule {
  readonly exports: readonly Pattern[];
}

export class TlsRules {
  readonly #entries: readonly Entry[];

  constructor(entries: readonly Entry[] = []) {
    this.#entries = entries;
  }

  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  /** Whether some rule names clients: then they must be able to show who they are. */
  get nameClients(): boolean {
    return this.#entries.some(({ clients }) => clients !== undefined);
  }

  /** The rule about an export, by any of its names; undefined when there is none. */
  for(target: ExportTarget): TlsRule | undefined {
    const names = [formatVolumeId(target.volumeId), target.name, ...(target.names ?? [])];
    return this.#entries.find(({ exports }) =>
      exports.some((matches) => names.some((name) => matches(name))),
    );
  }
}

/** Whether a client is one of those that `clients` names. */
export function isNamed(identity: TlsIdentity | undefined, clients: readonly Pattern[]): boolean {
  if (identity === undefined) return false;
  const texts =
    identity.kind === 'psk' ? [`PSK:${identity.identity}`] : [identity.subject, ...identity.names];
  return clients.some((matches) => texts.some((text) => matches(text)));
}

/** @throws Error what is wrong with the text, in words that follow a file's name */
export function parseTlsRules(text: string): TlsRules {
  let document: unknown;
  try {
    document = parseYaml(text);
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    throw new Error(`it is not YAML: ${reason.replace(/[.:]$/, '')}`, { cause: error });
  }
  const rules: unknown = document ?? [];
  const problem = Value.Errors(RuleFile, rules)[0];
  if (problem !== undefined || !Value.Check(RuleFile, rules)) {
    const place = problem?.instancePath.split('/')[1];
    const which = place === undefined ? '' : `rule ${Number(place) + 1}: `;
    throw new Error(
      `${which}it must be a list of rules, each with exports: [...], and if you like ` +
        'clients: [...] and tls: required or optional',
    );
  }
  return new TlsRules(rules.map((rule, index) => entryOf(rule, index)));
}

function entryOf(rule: Static<typeof RuleFile>[number], index: number): Entry {
  if (rule.clients !== undefined && rule.tls === 'optional') {
    throw new Error(`rule ${index + 1}: clients are known by TLS only, so tls cannot be optional`);
  }
  return {
    exports: rule.exports.map((pattern) => glob(pattern, true)),
    required: rule.tls !== 'optional',
    // Host names have no case; names in certificates have.
    clients: rule.clients?.map((pattern) => glob(pattern, pattern.startsWith('DNS:'))),
  };
}

/** `*` stands for any characters, also none; everything else for itself. */
export function glob(pattern: string, ignoreCase: boolean): Pattern {
  const fold = (text: string): string => (ignoreCase ? text.toLowerCase() : text);
  const [first = '', ...rest] = fold(pattern).split('*');
  const last = rest.pop();
  // Piece by piece instead of a regular expression, whose time a pattern could make explode.
  return (raw) => {
    const text = fold(raw);
    if (last === undefined) return text === first;
    if (!text.startsWith(first)) return false;
    let from = first.length;
    for (const piece of rest) {
      const at = text.indexOf(piece, from);
      if (at < 0) return false;
      from = at + piece.length;
    }
    return text.length - last.length >= from && text.endsWith(last);
  };
}
