/** Routes of FlashCopy: relationships and their verbs, consistency groups, undo, LSS timers. */

import { formatLss, parseLss, parsePair, type VolumePair } from '../base/ids.js';
import type { FlashCopyView } from '../copyservices/copy-services.js';
import type { App } from './app.js';
import { ErrorBody, Nothing, VolumeParams } from './schemas.js';
import {
  AgainBody,
  CopySettingsBody,
  FlashcopiesBody,
  FlashcopiesQuery,
  FlashcopyBody,
  LssParams,
  ModifyBody,
  NewFlashcopiesBody,
  OneLssBody,
  PairParams,
  ResyncBody,
  ReverseBody,
  SetCopySettingsBody,
  SetLssBody,
  UndoneBody,
  UndosBody,
  UnfreezeBody,
  UnfrozenBody,
  WithdrawQuery,
} from './schemas-copies.js';
import type { ApiServices } from './services.js';

const tags = ['flashcopies'];

/** Adds /v1/flashcopies, /v1/consistency-groups, /v1/undo, /v1/lss/:lss and /v1/copyservices. */
export function addFlashcopyRoutes(app: App, services: ApiServices): void {
  addRelationshipRoutes(app, services);
  addOneRelationshipRoutes(app, services);
  addAgainRoutes(app, services);
  addVerbRoutes(app, services);
  addGroupRoutes(app, services);
  addUndoRoutes(app, services);
  addLssRoutes(app, services);
}

function addRelationshipRoutes(app: App, { copyServices }: ApiServices): void {
  app.get(
    '/v1/flashcopies',
    {
      schema: {
        summary: 'relationships, of one volume or all',
        tags,
        querystring: FlashcopiesQuery,
        response: { 200: FlashcopiesBody, '4xx': ErrorBody },
      },
    },
    (request) => ({ flashcopies: copyServices.list(request.query.volume) }),
  );

  app.post(
    '/v1/flashcopies',
    {
      schema: {
        summary: 'establish all pairs at one point in time, or none',
        tags,
        body: NewFlashcopiesBody,
        response: { 201: FlashcopiesBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      const { pairs, options } = request.body;
      const flashcopies = await copyServices.establish({ pairs, ...options });
      return reply.code(201).send({ flashcopies });
    },
  );

  app.post(
    '/v1/flashcopies/resync',
    {
      schema: {
        summary: 'copy several again at one point in time, or none',
        tags,
        body: ResyncBody,
        response: { 200: FlashcopiesBody, '4xx': ErrorBody },
      },
    },
    async (request) => {
      const { pairs, options } = request.body;
      return { flashcopies: await copyServices.resyncAll(pairs, options) };
    },
  );
}

function addOneRelationshipRoutes(app: App, { copyServices }: ApiServices): void {
  const params = PairParams;
  app.get(
    '/v1/flashcopies/:pair',
    {
      schema: {
        summary: 'one relationship, as SOURCE:TARGET',
        tags,
        params,
        response: { 200: FlashcopyBody, '4xx': ErrorBody },
      },
    },
    (request) => copyServices.show(parsePair(request.params.pair)),
  );

  app.patch(
    '/v1/flashcopies/:pair',
    {
      schema: {
        summary: 'another rate or priority of its background copy, at once',
        tags,
        params,
        body: ModifyBody,
        response: { 200: FlashcopyBody, '4xx': ErrorBody },
      },
    },
    (request) => copyServices.modify(parsePair(request.params.pair), request.body),
  );

  app.delete(
    '/v1/flashcopies/:pair',
    {
      schema: {
        summary: 'withdraw: end a relationship; both volumes keep their content',
        tags,
        params,
        querystring: WithdrawQuery,
        response: { 204: Nothing, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      const complete = request.query.complete === 'true';
      await copyServices.withdraw(parsePair(request.params.pair), { complete });
      return reply.code(204).send(null);
    },
  );
}

/** A new T0 of a relationship that is there. */
function addAgainRoutes(app: App, { copyServices }: ApiServices): void {
  const params = PairParams;
  const response = { 200: FlashcopyBody, '4xx': ErrorBody };

  app.post(
    '/v1/flashcopies/:pair/resync',
    {
      schema: {
        summary: 'copy again; the options replace those of the relationship',
        tags,
        params,
        body: AgainBody,
        response,
      },
    },
    (request) => copyServices.resync(parsePair(request.params.pair), request.body?.options),
  );

  app.post(
    '/v1/flashcopies/:pair/reverse',
    {
      schema: {
        summary: 'turn round: the source becomes what the target is now, and is the target then',
        tags,
        params,
        body: ReverseBody,
        response,
      },
    },
    (request) => copyServices.reverse(parsePair(request.params.pair), request.body?.options),
  );
}

function addVerbRoutes(app: App, { copyServices }: ApiServices): void {
  const add = (
    name: string,
    summary: string,
    run: (pair: VolumePair) => Promise<FlashCopyView>,
  ): void => {
    app.post(
      `/v1/flashcopies/:pair/${name}`,
      {
        schema: {
          summary,
          tags,
          params: PairParams,
          response: { 200: FlashcopyBody, '4xx': ErrorBody },
        },
      },
      (request) => run(parsePair((request.params as { pair: string }).pair)),
    );
  };
  add('copy', 'begin the background copy of a nocopy relationship', (pair) =>
    copyServices.copy(pair),
  );
  add('pause', 'hold up its background copy', (pair) => copyServices.pause(pair));
  add('resume', 'let it go on', (pair) => copyServices.resume(pair));
  add('set-revertible', 'a resync that can be taken back until a commit', (pair) =>
    copyServices.setRevertible(pair),
  );
  add('commit', 'give up the image before a revertible resync', (pair) =>
    copyServices.commit(pair),
  );
  add('revert', 'make the target that image again', (pair) => copyServices.revert(pair));
}

function addGroupRoutes(app: App, { copyServices }: ApiServices): void {
  app.post(
    '/v1/consistency-groups/unfreeze',
    {
      schema: {
        summary: 'Consistency Created: hosts of these LSSs may write again; did the group hold?',
        tags: ['consistency-groups'],
        body: UnfreezeBody,
        response: { 200: UnfrozenBody, '4xx': ErrorBody },
      },
    },
    (request) => ({ lss: copyServices.unfreeze(request.body.lss) }),
  );

  const settings = (): { copyBytesPerSecond: number | null } => ({
    copyBytesPerSecond: copyServices.copyBytesPerSecond ?? null,
  });
  app.get(
    '/v1/copyservices',
    {
      schema: {
        summary: 'the rate of all background copies together',
        tags: ['copyservices'],
        response: { 200: CopySettingsBody },
      },
    },
    settings,
  );
  app.patch(
    '/v1/copyservices',
    {
      schema: {
        summary: 'set it, until the server ends; 0: as fast as the disk',
        tags: ['copyservices'],
        body: SetCopySettingsBody,
        response: { 200: CopySettingsBody, '4xx': ErrorBody },
      },
    },
    (request) => {
      copyServices.setCopyRate(request.body.copyBytesPerSecond);
      return settings();
    },
  );
}

function addUndoRoutes(app: App, { copyServices }: ApiServices): void {
  app.get(
    '/v1/undo',
    {
      schema: {
        summary: 'establishes that can be undone, and until when',
        tags,
        response: { 200: UndosBody },
      },
    },
    () => ({ undo: copyServices.undoable() }),
  );

  app.post(
    '/v1/volumes/:ref/undo',
    {
      schema: {
        summary: 'make the target of the last establish what it was before',
        tags,
        params: VolumeParams,
        response: { 200: UndoneBody, '4xx': ErrorBody },
      },
    },
    (request) => copyServices.undo(request.params.ref),
  );
}

function addLssRoutes(app: App, { array, groups }: ApiServices): void {
  const view = (text: string) => {
    const lss = parseLss(text);
    const id = formatLss(lss);
    return {
      id,
      volumes: array.lss().find((each) => each.id === id)?.volumes ?? 0,
      freezeTimeout: groups.freezeSeconds(lss),
      frozen: groups.frozenIn(lss),
    };
  };
  const response = { 200: OneLssBody, '4xx': ErrorBody };
  app.get(
    '/v1/lss/:lss',
    {
      schema: {
        summary: 'one LSS: its freeze timer, and what is frozen',
        tags: ['array'],
        params: LssParams,
        response,
      },
    },
    (request) => view(request.params.lss),
  );
  app.patch(
    '/v1/lss/:lss',
    {
      schema: {
        summary: 'set its freeze timer; it counts for freezes from now on',
        tags: ['array'],
        params: LssParams,
        body: SetLssBody,
        response,
      },
    },
    (request) => {
      groups.setFreezeSeconds(parseLss(request.params.lss), request.body.freezeTimeout);
      return view(request.params.lss);
    },
  );
}
