import { expect, test } from 'vitest';
import { ChangeQueue } from '../../../src/array/change-queue.js';

test('changes run one at a time, in order, and a failure does not stop the next', async () => {
  const queue = new ChangeQueue();
  const events: string[] = [];
  const change =
    (name: string, failing = false) =>
    async () => {
      events.push(`${name} begins`);
      await Promise.resolve();
      events.push(`${name} ends`);
      if (failing) throw new Error(name);
      return name;
    };
  const results = await Promise.allSettled([
    queue.run(change('a')),
    queue.run(change('b', true)),
    queue.run(change('c')),
  ]);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(events).toEqual(['a', 'b', 'c'].flatMap((name) => [`${name} begins`, `${name} ends`]));
  await queue.idle();
});
