/**
 * Writes what a vitest run found to the file named by FLASHLUN_TEST_REPORT, for
 * scripts/run-tests.mjs to add up. A skipped test carries its reason: a skip without one counts as
 * a failure, because nobody could tell why.
 */
import { writeFileSync } from 'node:fs';
import type { Reporter, TestModule } from 'vitest/node';

interface Summary {
  passed: number;
  failed: string[];
  skipped: string[];
}

function summarize(modules: readonly TestModule[]): Summary {
  const summary: Summary = { passed: 0, failed: [], skipped: [] };
  for (const module of modules) {
    if (module.errors().length > 0) summary.failed.push(`${module.relativeModuleId}: did not load`);
    for (const test of module.children.allTests()) {
      const name = `${module.relativeModuleId}: ${test.fullName}`;
      const result = test.result();
      if (result.state === 'passed') summary.passed += 1;
      else if (result.state !== 'skipped') summary.failed.push(name);
      else if (result.note === undefined) summary.failed.push(`${name}: skipped without a reason`);
      else summary.skipped.push(`${name}: ${result.note}`);
    }
  }
  return summary;
}

export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const path = process.env['FLASHLUN_TEST_REPORT'];
    if (path !== undefined) writeFileSync(path, `${JSON.stringify(summarize(modules))}\n`);
  }
}
