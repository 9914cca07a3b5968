// One project a kind of test, so that each can be run alone (npm run test:unit). Files of
// `integration` and `lab` start servers, loop devices and guests: they run one after the other, so
// that what one measures or kills is its own.
import { defineConfig } from 'vitest/config';

const MINUTE_MS = 60_000;

/** Forks, not threads: a crash of the addon ends one file, not the whole run. */
function project(name: string, timeoutMs: number) {
  return {
    extends: true as const,
    test: {
      name,
      include: [`test/${name}/**/*.test.ts`],
      testTimeout: timeoutMs,
      hookTimeout: timeoutMs,
    },
  };
}

export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    reporters: ['default', './test/helpers/summary-reporter.ts'],
    projects: [
      project('unit', 20_000),
      project('tidy', 30_000),
      project('integration', 3 * MINUTE_MS),
      project('lab', 5 * MINUTE_MS),
    ],
  },
});
