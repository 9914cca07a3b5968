/**
 * What a client has switched on during negotiation, and the answers to the options that do so:
 * STRUCTURED_REPLY, EXTENDED_HEADERS, LIST_META_CONTEXT, SET_META_CONTEXT. Pure.
 *
 * A new object forgets all of it, as STARTTLS demands.
 */

import type { ExportBitmap } from '../array/export-catalog.js';
import { LIMITS } from '../base/limits.js';
import type { ReplyStyle, SelectedContext } from '../engine/types.js';
import { contextsOf, listContexts, selectContexts } from './meta-contexts.js';
import type { ContextRequest } from './options.js';
import { OPTION, REPLY } from './protocol.js';
import { errorReply, metaContextReply, optionReply } from './replies.js';

export class Features {
  #replies: ReplyStyle = 'simple';
  /** Of the last SET_META_CONTEXT, for the export that it named. */
  #selected: { readonly name: string; readonly contexts: readonly SelectedContext[] } | undefined;

  get replies(): ReplyStyle {
    return this.#replies;
  }

  /** The contexts that hold when transmission begins on the export of this name. */
  contexts(exportName: string): readonly SelectedContext[] {
    return this.#selected?.name === exportName ? this.#selected.contexts : [];
  }

  structuredReply(): Buffer {
    const option = OPTION.structuredReply;
    if (this.#replies === 'structured') {
      return errorReply(option, REPLY.errInvalid, 'structured replies are on already');
    }
    if (this.#replies === 'extended') {
      const text = 'extended headers are on, which include structured replies';
      return errorReply(option, REPLY.errExtHeaderRequired, text);
    }
    this.#replies = 'structured';
    return optionReply(option, REPLY.ack);
  }

  /** Takes the place of structured replies. */
  extendedHeaders(): Buffer {
    const option = OPTION.extendedHeaders;
    if (this.#replies === 'extended') {
      return errorReply(option, REPLY.errInvalid, 'extended headers are on already');
    }
    this.#replies = 'extended';
    return optionReply(option, REPLY.ack);
  }

  listContexts(request: ContextRequest, bitmaps: readonly ExportBitmap[]): Buffer[] {
    const option = OPTION.listMetaContext;
    const found = listContexts(contextsOf(bitmaps), request.queries);
    return [
      ...found.map(({ name }) => metaContextReply(option, 0, name)),
      optionReply(option, REPLY.ack),
    ];
  }

  /** Every SET_META_CONTEXT begins by forgetting the one before, also when it fails. */
  forgetContexts(): void {
    this.#selected = undefined;
  }

  setContexts(request: ContextRequest, bitmaps: readonly ExportBitmap[]): Buffer[] {
    const option = OPTION.setMetaContext;
    const found = selectContexts(contextsOf(bitmaps), request.queries);
    if (found.length > LIMITS.nbdContexts) {
      const text = `${found.length} contexts at once; at most ${LIMITS.nbdContexts}`;
      return [errorReply(option, REPLY.errTooBig, text)];
    }
    const contexts = found.map(({ kind, relationshipId }, index) => ({
      id: index + 1,
      kind,
      relationshipId,
    }));
    this.#selected = { name: request.name, contexts };
    return [
      ...found.map(({ name }, index) => metaContextReply(option, index + 1, name)),
      optionReply(option, REPLY.ack),
    ];
  }
}
